#include "ops/gradient_norm/gradient_norm.h"

#include "harness.h"

namespace pyllm::test {
namespace {

std::vector<Values> sum_of_squares(DType dtype, int64_t count) {
  Values x = Values::random(dtype, count, 1);
  std::vector<Values> out;
  out.emplace_back(DType::f64, 1);
  out[0].as<double>()[0] = gradient_norm::sum_of_squares(dtype, x.data(), count);
  return out;
}

}  // namespace

void test_gradient_norm() {
  for (int64_t count : {0, 1, 37, 4096, 3 * 4096 + 5}) {
    check_levels_and_threads([&](DType dtype) { return sum_of_squares(dtype, count); });
  }
}

void fuzz_gradient_norm(Dice& dice) {
  const int64_t count = dice.size(10 * gradient_norm::kBlock);
  check_levels_and_threads([&](DType dtype) { return sum_of_squares(dtype, count); });
}

}  // namespace pyllm::test
