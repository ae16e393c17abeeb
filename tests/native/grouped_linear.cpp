#include "ops/grouped_linear/grouped_linear.h"

#include "harness.h"
#include "ops/quantized_linear/quantized_linear.h"
#include "random_weight.h"

namespace pyllm::test {
namespace {

struct Case {
  std::vector<int64_t> offsets;
  int64_t outputs, inputs;

  int64_t rows() const { return offsets.back(); }
  int64_t experts() const { return std::ssize(offsets) - 1; }
  grouped_linear::Groups groups() const { return {experts(), offsets.data()}; }
};

void same_bits(std::vector<Values>& ours, std::vector<Values>& composed) {
  for (size_t i = 0; i < ours.size(); ++i) CHECK(ours[i].same_bits(composed[i]));
}

char* row(Values& values, int64_t index, int64_t size) {
  return static_cast<char*>(values.data()) + index * size * size_of(values.dtype());
}

linear::Product expert_product(DType dtype, int64_t rows, int64_t columns, int64_t depth,
                               linear::Operand left, linear::Operand right, void* out) {
  return {.dtype = dtype,
          .out_dtype = dtype,
          .rows = rows,
          .columns = columns,
          .depth = depth,
          .left = left,
          .right = right,
          .bias = nullptr,
          .out = out};
}

// y, grad x and grad weights; the same expert by expert must have the same bits.
std::vector<Values> dense(DType dtype, const Case& c) {
  const int64_t out = c.outputs, in = c.inputs;
  Values x = Values::random(dtype, c.rows() * in, 1), grad = Values::random(dtype, c.rows() * out, 2);
  Values weights = Values::random(dtype, c.experts() * out * in, 3);
  std::vector<Values> ours, composed;
  for (auto* values : {&ours, &composed}) {
    for (int64_t size : {c.rows() * out, c.rows() * in, c.experts() * out * in}) {
      values->push_back(Values::filled(dtype, size, 77));
    }
  }
  grouped_linear::product(
      {dtype, c.groups(), out, in, {x.data(), in, 1}, {weights.data(), in, 1}, out * in, ours[0].data()});
  grouped_linear::product(
      {dtype, c.groups(), in, out, {grad.data(), out, 1}, {weights.data(), 1, in}, out * in, ours[1].data()});
  grouped_linear::grad_weight({dtype, c.groups(), out, in, grad.data(), x.data(), ours[2].data()});
  for (int64_t e = 0; e < c.experts(); ++e) {
    const int64_t first = c.groups().first(e), rows = c.groups().rows(e);
    char *xs = row(x, first, in), *grads = row(grad, first, out), *weight = row(weights, e * out, in);
    linear::product(
        expert_product(dtype, rows, out, in, {xs, in, 1}, {weight, in, 1}, row(composed[0], first, out)));
    linear::product(
        expert_product(dtype, rows, in, out, {grads, out, 1}, {weight, 1, in}, row(composed[1], first, in)));
    linear::product(
        expert_product(dtype, out, in, rows, {grads, 1, out}, {xs, 1, in}, row(composed[2], e * out, in)));
  }
  same_bits(ours, composed);
  return ours;
}

// y and grad x, likewise.
std::vector<Values> quantized(DType dtype, const Case& c, const std::vector<packed::Weight>& weights) {
  const int64_t out = c.outputs, in = c.inputs;
  Values x = Values::random(dtype, c.rows() * in, 1), grad = Values::random(dtype, c.rows() * out, 2);
  std::vector<Values> ours, composed;
  for (auto* values : {&ours, &composed}) {
    for (int64_t size : {c.rows() * out, c.rows() * in}) values->push_back(Values::filled(dtype, size, 77));
  }
  grouped_linear::forward({dtype, c.groups(), weights.data(), x.data(), ours[0].data()});
  grouped_linear::grad_x({dtype, c.groups(), weights.data(), grad.data(), ours[1].data()});
  for (int64_t e = 0; e < c.experts(); ++e) {
    const int64_t first = c.groups().first(e), rows = c.groups().rows(e);
    quantized_linear::Product p = {.dtype = dtype,
                                   .rows = rows,
                                   .left = row(x, first, in),
                                   .stride = in,
                                   .weight = weights[static_cast<size_t>(e)],
                                   .bias = nullptr,
                                   .out = row(composed[0], first, out)};
    quantized_linear::forward(p);
    p.left = row(grad, first, out);
    p.stride = out;
    p.out = row(composed[1], first, in);
    quantized_linear::grad_x(p);
  }
  same_bits(ours, composed);
  return ours;
}

void check(const Case& c, const std::vector<std::string>& formats) {
  check_levels_and_threads([&](DType dtype) { return dense(dtype, c); });
  std::vector<std::unique_ptr<RandomWeight>> owned;
  std::vector<packed::Weight> weights;
  for (int64_t e = 0; e < c.experts(); ++e) {
    const packed::Format& format = *packed::find_format(formats[static_cast<size_t>(e) % formats.size()]);
    owned.push_back(std::make_unique<RandomWeight>(format, c.outputs, c.inputs));
    weights.push_back(owned.back()->get());
  }
  check_levels_and_threads([&](DType dtype) { return quantized(dtype, c, weights); });
}

}  // namespace

void test_grouped_linear() {
  check({{0, 0, 1, 4, 4, 30}, 70, 40}, {"q4_0", "q4_k", "q8_0"});
  check({{0, 3, 5}, 17, 300}, {"int4_g32"});
  check({{0, 0}, 3, 4}, {"int8"});
}

void fuzz_grouped_linear(Dice& dice) {
  Case c = {{0}, dice.size(200), dice.size(300)};
  for (int64_t experts = dice.number(1, 5); experts > 0; --experts) {
    c.offsets.push_back(c.rows() + (dice.coin() ? dice.size(40) : 0));
  }
  check(c, {"q4_0", "q6_k", "nf4", "int8_zp"});
}

}  // namespace pyllm::test
