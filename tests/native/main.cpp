// Every native test in one program: prints a line per test, exits with 1 at the first failure.
#include <algorithm>
#include <cstdio>
#include <thread>
#include <vector>

#include "harness.h"

namespace pyllm::test {

void test_attention();
void test_dtypes();
void test_linear();
void test_rms_norm();
void test_rope();
void test_swiglu();

namespace {

int g_threads = 1;

// One thread per part, as equal as they come, none smaller than the grain.
void run_on_threads(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  const int64_t parts = std::clamp<int64_t>((end - begin) / std::max<int64_t>(grain, 1), 1, g_threads);
  const int64_t size = (end - begin + parts - 1) / parts;
  std::vector<std::thread> team;
  for (int64_t first = begin; first < end; first += size) {
    team.emplace_back(body, context, first, std::min(end, first + size));
  }
  for (std::thread& member : team) member.join();
}

}  // namespace

void set_threads(int threads) {
  g_threads = threads;
  set_parallel_runner(run_on_threads);
}

}  // namespace pyllm::test

int main() {
  using namespace pyllm::test;
  const std::pair<const char*, void (*)()> tests[] = {
      {"attention", test_attention}, {"dtypes", test_dtypes}, {"linear", test_linear},
      {"rms_norm", test_rms_norm},   {"rope", test_rope},     {"swiglu", test_swiglu}};
  for (const auto& [name, test] : tests) {
    test();
    std::printf("%s ok\n", name);
  }
  return 0;
}
