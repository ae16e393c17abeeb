#include "core/parallel.h"

#include "core/team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_THREAD__)
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define PYLLM_TSAN_ACQUIRE(tag) __tsan_acquire(tag)
#define PYLLM_TSAN_RELEASE(tag) __tsan_release(tag)
#else
#define PYLLM_TSAN_ACQUIRE(tag)
#define PYLLM_TSAN_RELEASE(tag)
#endif

namespace pyllm {
namespace {

// Flush-to-zero and denormals-are-zero for the lifetime of the object.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

struct Task {
  ParallelBody body;
  void* context;
};

// ThreadSanitizer does not see libgomp's fork and join; these tags state them, so that only real races are
// reported.
[[maybe_unused]] char g_fork, g_join;

void run_task(void* context, int64_t begin, int64_t end) {
  const Task& task = *static_cast<const Task*>(context);
  FlushDenormals flush;
  task.body(task.context, begin, end);
}

void run_forked_task(void* context, int64_t begin, int64_t end) {
  PYLLM_TSAN_ACQUIRE(&g_fork);
  run_task(context, begin, end);
  PYLLM_TSAN_RELEASE(&g_join);
}

void run_serially(int64_t begin, int64_t end, int64_t, ParallelBody body, void* context) {
  body(context, begin, end);
}

ParallelRunner g_runner = run_serially;

}  // namespace

void set_parallel_runner(ParallelRunner runner) { g_runner = runner ? runner : run_serially; }

void run_parallel(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  if (begin >= end) return;
  Task task{body, context};
  if (end - begin <= grain) return run_task(&task, begin, end);
  if (Team* team = Team::leading()) return team->share(begin, end, grain, run_task, &task);
  PYLLM_TSAN_RELEASE(&g_fork);
  g_runner(begin, end, grain, run_forked_task, &task);
  PYLLM_TSAN_ACQUIRE(&g_join);
}

void run_with_team(void (*f)(void*), void* context) { Team::run(g_runner, f, context); }

}  // namespace pyllm
