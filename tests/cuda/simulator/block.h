// Runs a grid of CUDA blocks on one OS thread: a block at a time, a fiber for each of its threads. Threads
// run until they wait for others. What a real machine would leave undefined is an error here, with the line
// where each thread stands: a barrier or a warp's operation that some threads never reach, and asynchronous
// copies never waited for.
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

namespace pyllm::simulator {

using Site = std::source_location;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// The calling CUDA thread's place.
const Dim3& thread_index();
const Dim3& block_index();
const Dim3& block_size();
const Dim3& grid_size();
int lane_index();  // in its warp

// Throws std::runtime_error of what went wrong. PYLLM_SIMULATOR_SEED, if set, draws the order of blocks and
// threads.
void run_grid(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// Ends the grid with an error.
[[noreturn]] void fail(const std::string& message, const Site& site);

// Of the running block; poisoned with 0xFF bytes (NaN) when the block starts.
void* dynamic_shared();
void* static_shared(const Site& declaration, size_t bytes);

// All threads of the block meet here; orders memory.
void block_barrier(const Site& site);

// All lanes of `mask` meet here. Gives null, but to the last that comes all lanes' `mine`, indexed by lane,
// before the others go on when it calls `release`. Orders memory only if told so.
void* const* meet(uint32_t mask, const char* operation, const Site& site, void* mine);
void release();
void warp_barrier(uint32_t mask, const Site& site);

// cp.async: nothing moves before the wait.
struct Copy {
  void* to;
  const void* from;
  uint32_t bytes, valid;  // the rest is filled with zeros
};
void copy_later(const Copy& copy);
void commit_copies();
void wait_for_copies(size_t groups_left);

// Calls f(lanes) once, where lanes[i] points to lane i's `mine`: a pure exchange of registers.
template <class Args, class F>
void exchange(uint32_t mask, const char* operation, const Site& site, Args& mine, const F& f) {
  if (void* const* lanes = meet(mask, operation, site, &mine)) {
    f(reinterpret_cast<Args* const*>(lanes));
    release();
  }
}

// Registers are no memory: the thread sanitizer must not take the exchange for accesses.
#define SIMULATOR_REGISTERS __attribute__((no_sanitize("thread")))

}  // namespace pyllm::simulator
