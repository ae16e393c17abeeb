// Tiles of rows and blocks of keys as the vector kernels hold them: floats, rows in place, right-hand sides
// of products in panels (core/gemm.h).
#pragma once

#include "core/gemm.h"
#include "ops/attention/geometry.h"

namespace pyllm::attention {
namespace {

// Queries [first, first + queries) of all the heads that share kv_head. Row r is query first + r / group of
// head kv_head * group + r % group: neighbouring rows see nearly the same keys.
struct Tile {
  const Sequence& s;
  int64_t kv_head, group, first, queries;
};

[[maybe_unused]] inline int64_t row_count(const Tile& t) { return t.queries * t.group; }

// Calls f(row, head, query) for every row of a tile.
template <class F>
[[maybe_unused]] inline void for_each_row(const Tile& t, const F& f) {
  for (int64_t i = 0; i < t.queries; ++i) {
    for (int64_t g = 0; g < t.group; ++g) f(i * t.group + g, t.kv_head * t.group + g, t.first + i);
  }
}

[[maybe_unused]] inline int64_t tile_count(const Problem& p, const Sequence& s) {
  return ceil_div(s.q_len, tile_queries(p));
}

[[maybe_unused]] inline Tile make_tile(const Problem& p, const Sequence& s, int64_t kv_head, int64_t index) {
  const int64_t first = index * tile_queries(p);
  return {s, kv_head, group_size(p), first, smaller(tile_queries(p), s.q_len - first)};
}

// Rows a thread's scratch must hold.
[[maybe_unused]] inline int64_t largest_tile(const Problem& p) {
  int64_t queries = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    queries = p.sequence[i].q_len > queries ? p.sequence[i].q_len : queries;
  }
  return smaller(queries, tile_queries(p)) * group_size(p);
}

// Keys [first, first + keys) of a sequence.
struct Block {
  int64_t first, keys;
};

[[maybe_unused]] inline Block make_block(const Sequence& s, int64_t index) {
  return {index * kBlock, smaller(kBlock, s.kv_len - index * kBlock)};
}

// Columns of a tile's scores, counted from the block's first key, outside of which no row sees anything;
// whole panels, so the last may reach past the block, where panels hold zeros.
struct Columns {
  int64_t first, last;
};

[[maybe_unused]] inline Columns visible_columns(const Problem& p, const Tile& t, const Block& b) {
  const Visible top = visible(p, t.s, t.first), bottom = visible(p, t.s, t.first + t.queries - 1);
  const KeyRange range = visible_range({bottom.head, top.low, bottom.high}, b.first, b.first + b.keys);
  if (range.first == range.last) return {0, 0};
  return {(range.first - b.first) / kPanel * kPanel, ceil_div(range.last - b.first, kPanel) * kPanel};
}

// True if no element is NaN or infinite.
[[maybe_unused]] inline bool all_finite(const float* x, int64_t count) {
  Vec sum[4] = {zero(), zero(), zero(), zero()};  // short chains: this stands between products
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sum[j] = fma(load(x + i + j * kLanes), zero(), sum[j]);
  }
  for_each_vec(count - i,
               [&](int64_t n, int64_t lanes) { sum[0] = fma(load_lanes(x + i + n, lanes), zero(), sum[0]); });
  return reduce_add(sum[0] + sum[1] + (sum[2] + sum[3])) == 0.0f;
}

// Panels of a block as the right-hand side of a product over the head's dimension: dim x keys.
template <class T>
[[maybe_unused]] void pack_transposed(const Heads& x, const Sequence& s, int64_t kv_head, const Block& b,
                                      int64_t dim, float* panels) {
  pack_panels(key_row<const T>(x, s, kv_head, b.first), 1, x.token, dim, b.keys, panels);
}

// Long dot products are summed in parts of this many terms: one chain of 272 loses two bits more than plain
// PyTorch's product does.
constexpr int64_t kDotDepth = 64;

// Weights that a mask set to zero carry the sign bit. Where every operand is finite that changes nothing;
// where one is not, products with it are left out.
constexpr float kMaskedWeight = -0.0f;
[[maybe_unused]] inline bool is_masked(float weight) {
  return std::bit_cast<uint32_t>(weight) == std::bit_cast<uint32_t>(kMaskedWeight);
}

}  // namespace
}  // namespace pyllm::attention
