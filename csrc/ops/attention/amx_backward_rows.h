// Rows of the backward pass on tiles: strips of 64 rows of a kv head's queries, packed once and read by every
// block of keys.
#pragma once

#include "core/aligned.h"
#include "ops/attention/amx_pack.h"
#include "ops/attention/scores.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kGradRows = 64;

// A kv head of a sequence with the heads that read it. Row r is query r / group of head
// kv_head * group + r % group.
struct Pair {
  const Sequence& s;
  int64_t kv_head, group;

  int64_t rows() const { return s.q_len * group; }
  int64_t strips() const { return ceil_div(rows(), kGradRows); }
  int64_t query(int64_t row) const { return row / group; }
  int64_t head(int64_t row) const { return kv_head * group + row % group; }
};

[[maybe_unused]] inline Pair make_pair(const Problem& p, int64_t index) {
  return {p.sequence[index / p.kv_heads], index % p.kv_heads, group_size(p)};
}

// One strip, packed (amx_pack.h). Missing rows, and rows that saw no key, are zeros.
struct RowStrip {
  int64_t first, rows;
  bfloat16 *q_columns, *q_pairs, *grad_out_columns, *grad_out_pairs;
  float* lse;  // base 2; +infinity for the rows above, which makes their weights zero
  float* delta;
};

[[maybe_unused]] inline int64_t strip_floats(const Problem& p) {
  return kGradRows * (padded(p.head_dim) + padded(p.value_dim) + 2);
}

[[maybe_unused]] inline RowStrip strip_at(const Problem& p, const Pair& pair, int64_t index, float* memory) {
  const int64_t queries = kGradRows * padded(p.head_dim), values = kGradRows * padded(p.value_dim);
  float* numbers = memory + index * strip_floats(p);
  auto* packs = reinterpret_cast<bfloat16*>(numbers + 2 * kGradRows);
  const int64_t first = index * kGradRows;
  return {first,
          smaller(kGradRows, pair.rows() - first),
          packs,
          packs + queries,
          packs + 2 * queries,
          packs + 2 * queries + values,
          numbers,
          numbers + kGradRows};
}

[[maybe_unused]] inline bool is_finite(const bfloat16* x, int64_t count) {
  const auto load = [&](int64_t) { return x; };
  const RowsOf row{load, 1, count};
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 infinite = 0;
  for (int64_t d = 0; d < count; d += kDims) {
    infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(row.load(0, d), exponent), exponent);
  }
  return infinite == 0;
}

// Sums over rows meet zero weights where a mask hides the key, so NaN and infinity are left out of them: such
// a q shows in its scores, and a grad_out that is not finite is given an lse of NaN.
[[maybe_unused]] inline void pack_strip(const Backward& b, const float* delta, const Pair& pair,
                                        const RowStrip& to) {
  const Problem& p = b.problem;
  const bfloat16 *q[kGradRows], *grad_out[kGradRows];
  for (int64_t i = 0; i < kGradRows; ++i) {
    q[i] = grad_out[i] = nullptr;
    to.lse[i] = kInfinity;
    to.delta[i] = 0.0f;
    if (i >= to.rows) continue;
    const int64_t head = pair.head(to.first + i), query = pair.query(to.first + i);
    const int64_t index = row_index(p, pair.s, head, query);
    const float lse = static_cast<const float*>(b.lse)[index];
    if (lse == -kInfinity) continue;
    q[i] = query_row<const bfloat16>(p.q, pair.s, head, query);
    grad_out[i] = query_row<const bfloat16>(b.grad_out, pair.s, head, query);
    const bool finite = is_finite(grad_out[i], p.value_dim);
    to.lse[i] = finite ? lse * kLog2E : std::numeric_limits<float>::quiet_NaN();
    to.delta[i] = delta[index];
  }
  const auto q_row = [&](int64_t i) { return q[i]; };
  const auto grad_row = [&](int64_t i) { return grad_out[i]; };
  const RowsOf queries{q_row, to.rows, p.head_dim};
  const RowsOf grads{grad_row, to.rows, p.value_dim};
  const int64_t depth = padded(p.head_dim), width = padded(p.value_dim);
  for (int64_t i = 0; i < kGradRows; i += kAmxColumns) {
    pack_columns(queries, i, to.q_columns + i * depth);
    pack_columns(grads, i, to.grad_out_columns + i * width);
  }
  pack_pairs(queries, kGradRows, depth, true, to.q_pairs);
  pack_pairs(grads, kGradRows, width, true, to.grad_out_pairs);
}

// A strip's grad_q is summed transposed, (padded head_dim) x 64.
[[maybe_unused]] inline int64_t grad_q_floats(const Problem& p) { return kGradRows * padded(p.head_dim); }

[[maybe_unused]] inline void write_grad_q(const Backward& b, const Pair& pair, int64_t index,
                                          const float* sums, float factor) {
  const Problem& p = b.problem;
  const int64_t first = index * kGradRows, rows = smaller(kGradRows, pair.rows() - first);
  for (int64_t row = 0; row < rows; row += kLanes) {
    for (int64_t d = 0; d < p.head_dim; d += kLanes) {
      Vec x[kLanes];
      for (int i = 0; i < kLanes; ++i) x[i] = load(sums + (d + i) * kGradRows + row);
      transpose(x);
      for (int64_t i = 0; i < smaller(kLanes, rows - row); ++i) {
        const int64_t r = first + row + i;
        bfloat16* to = query_row<bfloat16>(b.grad_q, pair.s, pair.head(r), pair.query(r)) + d;
        store_lanes(to, x[i] * set1(factor), smaller(kLanes, p.head_dim - d));
      }
    }
  }
}

}  // namespace
}  // namespace pyllm::attention
