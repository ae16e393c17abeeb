// Threads. Ops never make their own: the binding lends torch's pool, and without one (native tests) loops run
// serially or on whatever set_parallel_runner() was given.
#pragma once

#include <cstdint>

namespace pyllm {

// Runs body(context, begin, end) over parts that cover [begin, end).
using ParallelBody = void (*)(void* context, int64_t begin, int64_t end);
using ParallelRunner = void (*)(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

void set_parallel_runner(ParallelRunner runner);

// Denormals are flushed inside the body and the caller's mode comes back after it, whatever thread runs it.
void run_parallel(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

// Calls f(begin, end) over parts of at least `grain` iterations. Results must not depend on how the range is
// cut.
template <class F>
inline __attribute__((always_inline)) void parallel_for(int64_t begin, int64_t end, int64_t grain,
                                                        const F& f) {
  run_parallel(
      begin, end, grain, [](void* context, int64_t b, int64_t e) { (*static_cast<const F*>(context))(b, e); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace pyllm
