#include "ops/rope/rope.h"

#include "cases.h"

namespace pyllm::test {
namespace {

struct Shape {
  int64_t batch, heads, length, head_dim, pairs, table_rows;
  bool interleaved, inverse;
};

// x as (batch, length, heads, head_dim) in memory; positions run backwards.
std::vector<Values> rotate(DType dtype, const Shape& s, void (*run)(const rope::Rotation&)) {
  Values x = Values::random(dtype, s.batch * s.length * s.heads * s.head_dim, 1);
  Values cos = Values::random(DType::f32, s.table_rows * s.pairs, 2);
  Values sin = Values::random(DType::f32, s.table_rows * s.pairs, 3);
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < s.batch * s.length; ++i) positions.push_back(s.table_rows - 1 - i % s.table_rows);
  std::vector<Values> out;
  out.emplace_back(dtype, x.count());
  run({.dtype = dtype,
       .batch = s.batch,
       .heads = s.heads,
       .length = s.length,
       .head_dim = s.head_dim,
       .pairs = s.pairs,
       .x = x.data(),
       .batch_stride = s.length * s.heads * s.head_dim,
       .head_stride = s.head_dim,
       .row_stride = s.heads * s.head_dim,
       .out = out[0].data(),
       .cos = cos.data(),
       .sin = sin.data(),
       .table_rows = s.table_rows,
       .positions = positions.data(),
       .positions_batch_stride = s.length,
       .interleaved = s.interleaved,
       .inverse = s.inverse});
  return out;
}

}  // namespace

void rope_case(Dice& dice) {
  const int64_t pairs = dice.coin() ? 8 * dice.number(1, 16) : dice.number(0, 40);
  const int64_t head_dim = 2 * pairs + (dice.coin() ? 0 : dice.coin() ? 16 : dice.number(1, 9));
  const Shape shape = {
      dice.number(1, 2),  dice.number(1, 9), dice.number(1, 9), head_dim > 0 ? head_dim : 1, pairs,
      dice.number(1, 20), dice.coin(),       dice.coin()};
  for (DType dtype : kCudaDTypes) {
    check_near(rotate(dtype, shape, rope::rotate), rotate(dtype, shape, rope::kernels_scalar.rotate));
  }
  // A position without a row in the tables reads none, and gives NaN.
  Values x = Values::filled(DType::f32, 8, 1), out(DType::f32, 8), table = Values::filled(DType::f32, 4, 1);
  const int64_t beyond = dice.coin() ? 1 : -1;
  rope::rotate({DType::f32, 1, 1, 1, 8, 4, x.data(), 8, 8, 8, out.data(), table.data(), table.data(), 1,
                &beyond, 0, dice.coin(), false});
  for (int64_t i = 0; i < 8; ++i) CHECK(std::isnan(out[i]));
}

}  // namespace pyllm::test
