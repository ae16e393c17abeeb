#include "core/team.h"

#include <algorithm>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pyllm {
namespace {

// What the runner is asked to share out: more than any pool has threads. Each takes an equal piece.
constexpr int64_t kPlaces = 1024;

// Parts of a loop, so that a thread that is late or was interrupted does less.
constexpr int64_t kPartsPerThread = 4;

thread_local Team* t_leading = nullptr;

// Spins while the wait is likely to be short, then lets others run: they may be whom we wait for.
class Wait {
 public:
  void again() {
    if (++count_ > kSpins) return std::this_thread::yield();
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  void reset() { count_ = 0; }

 private:
  static constexpr int kSpins = 2000;
  int count_ = 0;
};

}  // namespace

Team* Team::leading() { return t_leading; }

void Team::run(ParallelRunner runner, void (*f)(void*), void* context) {
  Team team(f, context);
  runner(0, kPlaces, 1, enter, &team);
  if (team.error_) std::rethrow_exception(team.error_);
}

void Team::enter(void* team, int64_t begin, int64_t end) {
  Team& self = *static_cast<Team*>(team);
  if (self.is_led_.exchange(true)) return self.follow();
  self.lead((kPlaces + end - begin - 1) / (end - begin));
}

void Team::lead(int64_t threads) {
  threads_ = threads;
  Team* const outer = std::exchange(t_leading, this);
  try {
    f_(context_);
  } catch (...) {
    keep_error();
  }
  t_leading = outer;
  is_over_.store(true, std::memory_order_release);
}

void Team::follow() {
  Wait wait;
  while (!is_over_.load(std::memory_order_acquire)) {
    if (take_part()) {
      wait.reset();
    } else {
      wait.again();
    }
  }
}

void Team::share(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  const int64_t most = threads_ * kPartsPerThread;
  begin_ = begin;
  end_ = end;
  part_ = std::max(grain, (end - begin + most - 1) / most);
  body_ = body;
  body_context_ = context;
  const int64_t parts = (end - begin + part_ - 1) / part_;
  done_.store(0, std::memory_order_relaxed);
  parts_.store(static_cast<uint64_t>(parts) << 32, std::memory_order_release);
  t_leading = nullptr;
  while (take_part()) {
  }
  t_leading = this;
  Wait wait;
  while (done_.load(std::memory_order_acquire) < parts) wait.again();
  if (has_error_.load(std::memory_order_relaxed)) std::rethrow_exception(error_);
}

// Whoever moves parts_ on owns a part of the loop that is being run, which cannot end before this part is
// done: what describes the loop stands still until then.
bool Team::take_part() {
  uint64_t parts = parts_.load(std::memory_order_relaxed);
  do {
    if ((parts & 0xffffffffu) >= parts >> 32) return false;
  } while (
      !parts_.compare_exchange_weak(parts, parts + 1, std::memory_order_acquire, std::memory_order_relaxed));
  const int64_t first = begin_ + static_cast<int64_t>(parts & 0xffffffffu) * part_;
  try {
    body_(body_context_, first, std::min(end_, first + part_));
  } catch (...) {
    keep_error();
  }
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Team::keep_error() {
  if (!has_error_.exchange(true)) error_ = std::current_exception();
}

}  // namespace pyllm
