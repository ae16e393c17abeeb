// Many short loops on one set of threads.
//
// Inside with_team(f) every parallel_for() that f calls is shared among threads that are there already,
// waiting: parts change hands through one cache line, in 0.3 us, where a fork and join of the pool takes 8.
//
//   first thread of the pool to arrive     leads: runs f; in a loop, publishes the parts, takes some, waits
//   for the
//                                          last to be done
//   the others                             follow: take parts until f has returned
//
// Nobody is waited for but those who have taken a part, so a team may be of any size: one thread, a loop
// inside a loop, or a pool that gives fewer threads than it has, and f runs all the same.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "core/parallel.h"

namespace pyllm {

class Team {
 public:
  // Runs f(context) on threads of `runner`.
  static void run(ParallelRunner runner, void (*f)(void*), void* context);

  // The team whose f runs on this thread, or null; null also inside the parts of its loops.
  static Team* leading();

  // A loop of the leader's.
  void share(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

 private:
  Team(void (*f)(void*), void* context) : f_(f), context_(context) {}
  static void enter(void* team, int64_t begin, int64_t end);
  void lead(int64_t threads);
  void follow();
  bool take_part();
  void keep_error();

  void (*const f_)(void*);
  void* const context_;
  int64_t threads_ = 1;
  std::exception_ptr error_;
  // The loop: written by the leader while no part is out.
  ParallelBody body_ = nullptr;
  void* body_context_ = nullptr;
  int64_t begin_ = 0, end_ = 0, part_ = 0;
  std::atomic<bool> is_led_{false}, has_error_{false};
  alignas(64) std::atomic<uint64_t> parts_{
      0};  // of the loop, in the high half; already taken, in the low half
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<bool> is_over_{false};
};

// Calls f on the pool's threads held together, see above.
void run_with_team(void (*f)(void*), void* context);

template <class F>
void with_team(const F& f) {
  run_with_team([](void* context) { (*static_cast<const F*>(context))(); },
                const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace pyllm
