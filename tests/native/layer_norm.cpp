#include "ops/layer_norm/layer_norm.h"

#include "harness.h"

namespace pyllm::test {
namespace {

// Forward with a residual, then backward: y, h, grad_x, grad_weight, grad_bias.
std::vector<Values> layer_norm_outputs(DType dtype, int64_t rows, int64_t columns) {
  const int64_t count = rows * columns;
  Values x = Values::random(dtype, count, 1), residual = Values::random(dtype, count, 2);
  Values weight = Values::random(dtype, columns, 3), bias = Values::random(dtype, columns, 5);
  Values grad_y = Values::random(dtype, count, 4);
  Values mean(accumulator(dtype), rows), rstd(accumulator(dtype), rows);
  std::vector<Values> out;
  for (int64_t size : {count, count, count, columns, columns}) out.emplace_back(dtype, size);
  layer_norm::forward({.dtype = dtype,
                       .rows = rows,
                       .columns = columns,
                       .x = x.data(),
                       .residual = residual.data(),
                       .weight = weight.data(),
                       .bias = bias.data(),
                       .y = out[0].data(),
                       .residual_out = out[1].data(),
                       .mean = mean.data(),
                       .rstd = rstd.data(),
                       .eps = 1e-2});
  layer_norm::backward({.dtype = dtype,
                        .rows = rows,
                        .columns = columns,
                        .grad_y = grad_y.data(),
                        .grad_residual_out = x.data(),
                        .h = out[1].data(),
                        .weight = weight.data(),
                        .mean = mean.data(),
                        .rstd = rstd.data(),
                        .grad_x = out[2].data(),
                        .grad_weight = out[3].data(),
                        .grad_bias = out[4].data()});
  return out;
}

}  // namespace

void test_layer_norm() {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {5, 64}, {200, 33}}) {
    check_levels_and_threads(
        [&, r = rows, c = columns](DType dtype) { return layer_norm_outputs(dtype, r, c); });
  }
}

void fuzz_layer_norm(Dice& dice) {
  const int64_t rows = dice.size(150), columns = dice.size(500);
  check_levels_and_threads([&](DType dtype) { return layer_norm_outputs(dtype, rows, columns); });
}

}  // namespace pyllm::test
