// Every native test in one program: prints a line per test, exits with 1 at the first failure.
//
//   native_tests                    fixed shapes
//   native_tests SECONDS [SEED]     random shapes, strides and masks for so long; a failure names its seed
//   native_tests race               a race on purpose, for ThreadSanitizer to find
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "harness.h"

namespace pyllm::test {

void test_adamw();
void test_attention();
void test_decoder_step();
void test_dtypes();
void test_formats();
void test_gradient_norm();
void test_grouped_linear();
void test_layer_norm();
void test_linear();
void test_linear_cross_entropy();
void test_parallel();
void test_quantized_linear();
void race();
void test_rms_norm();
void test_rope();
void test_swiglu();
void test_team();

void fuzz_adamw(Dice&);
void fuzz_attention(Dice&);
void fuzz_decoder_step(Dice&);
void fuzz_formats(Dice&);
void fuzz_gradient_norm(Dice&);
void fuzz_grouped_linear(Dice&);
void fuzz_layer_norm(Dice&);
void fuzz_linear(Dice&);
void fuzz_linear_cross_entropy(Dice&);
void fuzz_quantized_linear(Dice&);
void fuzz_rms_norm(Dice&);
void fuzz_rope(Dice&);
void fuzz_swiglu(Dice&);
void fuzz_team(Dice&);

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

namespace {

using namespace pyllm::test;

void run_fixed() {
  const std::pair<const char*, void (*)()> tests[] = {{"adamw", test_adamw},
                                                      {"attention", test_attention},
                                                      {"decoder_step", test_decoder_step},
                                                      {"dtypes", test_dtypes},
                                                      {"formats", test_formats},
                                                      {"gradient_norm", test_gradient_norm},
                                                      {"grouped_linear", test_grouped_linear},
                                                      {"layer_norm", test_layer_norm},
                                                      {"linear", test_linear},
                                                      {"linear_cross_entropy", test_linear_cross_entropy},
                                                      {"parallel", test_parallel},
                                                      {"quantized_linear", test_quantized_linear},
                                                      {"rms_norm", test_rms_norm},
                                                      {"rope", test_rope},
                                                      {"swiglu", test_swiglu},
                                                      {"team", test_team}};
  for (const auto& [name, test] : tests) {
    test();
    std::printf("%s ok\n", name);
  }
}

void run_random(double seconds, uint64_t seed) {
  // Attention and products have the most paths and come first.
  void (*const fuzzers[])(Dice&) = {fuzz_attention,      fuzz_linear,     fuzz_linear_cross_entropy,
                                    fuzz_gradient_norm,  fuzz_adamw,      fuzz_formats,
                                    fuzz_grouped_linear, fuzz_layer_norm, fuzz_quantized_linear,
                                    fuzz_rms_norm,       fuzz_rope,       fuzz_swiglu,
                                    fuzz_decoder_step,   fuzz_team};
  const int64_t last = std::ssize(fuzzers) - 1;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  int64_t cases = 0;
  for (; std::chrono::steady_clock::now() < end; ++seed, ++cases) {
    g_where = " (random case: seed " + std::to_string(seed) + ")";
    Dice dice(seed);
    fuzzers[dice.coin() ? 0 : dice.coin() ? 1 : dice.number(2, last)](dice);
  }
  std::printf("%lld random cases ok\n", static_cast<long long>(cases));
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (count == 1) {
    run_fixed();
  } else if (std::strcmp(arguments[1], "race") == 0) {
    race();
  } else {
    run_random(std::atof(arguments[1]), count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  }
  return 0;
}
