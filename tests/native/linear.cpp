#include "ops/linear/linear.h"

#include "harness.h"

namespace pyllm::test {
namespace {

struct Shape {
  int64_t rows, columns, depth;
  int64_t gap = 0;  // elements between one row of an operand and the next
};

// left and right row-major or transposed, each in a block that ends with its last element.
std::vector<Values> product(DType dtype, const Shape& s, bool left_transposed, bool right_transposed,
                            bool with_bias, bool float32_out = false, bool kept = false) {
  const auto size = [&](int64_t count, bool transposed) {
    const int64_t lines = transposed ? s.depth : count, length = transposed ? count : s.depth;
    return lines == 0 ? 0 : lines * (length + s.gap) - s.gap;
  };
  Values left = Values::random(dtype, size(s.rows, left_transposed), 1);
  Values right = Values::random(dtype, size(s.columns, right_transposed), 2);
  Values bias = Values::random(dtype, s.columns, 3);
  std::vector<Values> out;
  const DType out_dtype = float32_out && dtype != DType::f64 ? DType::f32 : dtype;
  out.emplace_back(out_dtype, s.rows * s.columns);
  const auto operand = [&](Values& values, int64_t count, bool transposed) {
    return linear::Operand{values.data(), transposed ? 1 : s.depth + s.gap, transposed ? count + s.gap : 1};
  };
  const linear::Operand weight = operand(right, s.columns, right_transposed);
  const int64_t panels = kept ? linear::packed_floats(dtype, weight, s.columns, s.depth) : 0;
  Values packed(DType::f32, panels);
  auto* floats = panels ? static_cast<float*>(packed.data()) : nullptr;
  if (floats) linear::pack(weight, s.columns, s.depth, floats);
  linear::product({.dtype = dtype,
                   .out_dtype = out_dtype,
                   .rows = s.rows,
                   .columns = s.columns,
                   .depth = s.depth,
                   .left = operand(left, s.rows, left_transposed),
                   .right = weight,
                   .bias = with_bias ? bias.data() : nullptr,
                   .out = out[0].data(),
                   .packed = floats});
  return out;
}

}  // namespace

void test_linear() {
  const Shape shapes[] = {{0, 3, 4},    {3, 4, 0},    {1, 1, 1},     {1, 37, 300}, {3, 16, 16},  {4, 33, 7},
                          {13, 65, 40}, {25, 7, 513}, {60, 300, 33}, {34, 70, 96}, {80, 66, 400}};
  int layout = 0;  // each shape in two of the four
  for (const Shape& shape : shapes) {
    for (int turn = 0; turn < 2; ++turn, layout = (layout + 3) % 4) {
      check_levels_and_threads([&](DType dtype) {
        return product(dtype, shape, layout & 1, layout & 2, layout != 3, false, turn);
      });
    }
  }
}

void fuzz_linear(Dice& dice) {
  const Shape shape = {dice.size(60), dice.size(130), dice.size(300), dice.number(0, 3)};
  const int64_t layout = dice.number(0, 31);
  check_levels_and_threads([&](DType dtype) {
    return product(dtype, shape, layout & 1, layout & 2, layout & 4, layout & 8, layout & 16);
  });
}

}  // namespace pyllm::test
