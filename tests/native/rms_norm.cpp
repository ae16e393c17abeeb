#include "ops/rms_norm/rms_norm.h"

#include "harness.h"

namespace pyllm::test {
namespace {

// Forward with a residual, then backward: y, h, grad_x, grad_weight.
std::vector<Values> norm(DType dtype, int64_t rows, int64_t columns) {
  const int64_t count = rows * columns;
  Values x = Values::random(dtype, count, 1), residual = Values::random(dtype, count, 2);
  Values weight = Values::random(dtype, columns, 3), grad_y = Values::random(dtype, count, 4);
  Values rstd(accumulator(dtype), rows);
  std::vector<Values> out;
  for (int64_t size : {count, count, count, columns}) out.emplace_back(dtype, size);
  rms_norm::forward({.dtype = dtype,
                     .rows = rows,
                     .columns = columns,
                     .x = x.data(),
                     .residual = residual.data(),
                     .weight = weight.data(),
                     .y = out[0].data(),
                     .residual_out = out[1].data(),
                     .rstd = rstd.data(),
                     .eps = 1e-5,
                     .weight_offset = 1});
  rms_norm::backward({.dtype = dtype,
                      .rows = rows,
                      .columns = columns,
                      .grad_y = grad_y.data(),
                      .grad_residual_out = x.data(),
                      .h = out[1].data(),
                      .weight = weight.data(),
                      .rstd = rstd.data(),
                      .grad_x = out[2].data(),
                      .grad_weight = out[3].data(),
                      .weight_offset = 1});
  return out;
}

}  // namespace

void test_rms_norm() {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {5, 64}, {200, 33}}) {
    check_levels_and_threads([&, r = rows, c = columns](DType dtype) { return norm(dtype, r, c); });
  }
}

void fuzz_rms_norm(Dice& dice) {
  const int64_t rows = dice.size(150), columns = dice.size(500);
  check_levels_and_threads([&](DType dtype) { return norm(dtype, rows, columns); });
}

}  // namespace pyllm::test
