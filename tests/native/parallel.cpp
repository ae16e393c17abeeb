// The team that the other tests run on: without several threads ThreadSanitizer would have nothing to see.
#include <set>
#include <thread>

#include "harness.h"

namespace pyllm::test {

void test_parallel() {
  set_threads(3);
  std::vector<std::thread::id> runner(3);
  std::vector<int> visits(3, 0);
  parallel_for(0, 3, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      runner[static_cast<size_t>(i)] = std::this_thread::get_id();
      ++visits[static_cast<size_t>(i)];
    }
  });
  CHECK(std::set<std::thread::id>(runner.begin(), runner.end()).size() == 3);
  CHECK((visits == std::vector<int>{1, 1, 1}));
}

// A bug on purpose, which ThreadSanitizer must report: parts of one loop add to the same number.
void race() {
  set_threads(3);
  volatile int64_t sum = 0;
  parallel_for(0, 3000, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum = sum + i;
  });
}

}  // namespace pyllm::test
