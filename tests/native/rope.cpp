#include "ops/rope/rope.h"

#include "harness.h"

namespace pyllm::test {
namespace {

constexpr int64_t kBatch = 2, kHeads = 3, kLength = 40, kPositions = 50;

// x as (batch, length, heads, head_dim) in memory; positions run backwards.
std::vector<Values> rotate(DType dtype, int64_t head_dim, int64_t pairs, bool interleaved, bool inverse) {
  const DType table = dtype == DType::f64 ? DType::f64 : DType::f32;
  Values x = Values::random(dtype, kBatch * kLength * kHeads * head_dim, 1);
  Values cos = Values::random(table, kPositions * pairs, 2),
         sin = Values::random(table, kPositions * pairs, 3);
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < kBatch * kLength; ++i) positions.push_back(kPositions - 1 - i % kPositions);
  std::vector<Values> out;
  out.emplace_back(dtype, x.count());
  rope::rotate({.dtype = dtype,
                .batch = kBatch,
                .heads = kHeads,
                .length = kLength,
                .head_dim = head_dim,
                .pairs = pairs,
                .x = x.data(),
                .batch_stride = kLength * kHeads * head_dim,
                .head_stride = head_dim,
                .row_stride = kHeads * head_dim,
                .out = out[0].data(),
                .cos = cos.data(),
                .sin = sin.data(),
                .table_rows = kPositions,
                .positions = positions.data(),
                .positions_batch_stride = kLength,
                .interleaved = interleaved,
                .inverse = inverse});
  return out;
}

}  // namespace

void test_rope() {
  for (const auto& [head_dim, pairs] :
       {std::pair<int64_t, int64_t>{1, 0}, {2, 1}, {7, 3}, {80, 16}, {160, 80}}) {
    for (int mode = 0; mode < 4; ++mode) {
      check_levels_and_threads(
          [&, d = head_dim, p = pairs](DType dtype) { return rotate(dtype, d, p, mode & 1, mode & 2); });
    }
  }
}

void fuzz_rope(Dice& dice) {
  const int64_t head_dim = dice.size(256), pairs = dice.number(0, head_dim / 2), mode = dice.number(0, 3);
  check_levels_and_threads([&](DType dtype) { return rotate(dtype, head_dim, pairs, mode & 1, mode & 2); });
}

}  // namespace pyllm::test
