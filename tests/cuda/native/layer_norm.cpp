#include "ops/layer_norm/layer_norm.h"

#include "cases.h"

namespace pyllm::test {
namespace {

using layer_norm::Backward;
using layer_norm::Forward;

// y, h, mean, rstd, grad_x, grad_weight, grad_bias
std::vector<Values> norm(DType dtype, int64_t rows, int64_t columns, bool residual, bool bias,
                         void (*forward)(const Forward&), void (*backward)(const Backward&)) {
  const int64_t count = rows * columns;
  Values x = Values::random(dtype, count, 1), more = Values::random(dtype, count, 2);
  Values weight = Values::random(dtype, columns, 3), grad_y = Values::random(dtype, count, 4);
  Values shift = Values::random(dtype, columns, 5);
  std::vector<Values> out;
  out.emplace_back(dtype, count);
  out.push_back(Values::filled(dtype, count, 0));
  out.emplace_back(DType::f32, rows);
  out.emplace_back(DType::f32, rows);
  out.emplace_back(dtype, count);
  out.emplace_back(dtype, columns);
  out.emplace_back(dtype, columns);
  forward({.dtype = dtype,
           .rows = rows,
           .columns = columns,
           .x = x.data(),
           .residual = residual ? more.data() : nullptr,
           .weight = weight.data(),
           .bias = bias ? shift.data() : nullptr,
           .y = out[0].data(),
           .residual_out = residual ? out[1].data() : nullptr,
           .mean = out[2].data(),
           .rstd = out[3].data(),
           .eps = 1e-5});
  backward({.dtype = dtype,
            .rows = rows,
            .columns = columns,
            .grad_y = grad_y.data(),
            .grad_residual_out = residual ? more.data() : nullptr,
            .h = residual ? out[1].data() : x.data(),
            .weight = weight.data(),
            .mean = out[2].data(),
            .rstd = out[3].data(),
            .grad_x = out[4].data(),
            .grad_weight = out[5].data(),
            .grad_bias = out[6].data()});
  return out;
}

}  // namespace

void layer_norm_case(Dice& dice) {
  // Up to three warps a row, and every other time several rows a block; more than kParts rows now and then.
  const int64_t columns = dice.coin() ? 8 * dice.number(1, 400) : dice.size(1500);
  const int64_t rows = dice.number(0, 9) == 0 ? dice.number(257, 300) : dice.number(1, 12);
  const bool residual = dice.coin(), bias = dice.coin();
  for (DType dtype : kCudaDTypes) {
    const auto& scalar = layer_norm::kernels_scalar;
    check_near(norm(dtype, rows, columns, residual, bias, layer_norm::forward, layer_norm::backward),
               norm(dtype, rows, columns, residual, bias, scalar.forward, scalar.backward));
  }
}

}  // namespace pyllm::test
