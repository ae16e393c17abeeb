// Where rows, tiles and blocks of a problem lie.
#pragma once

#include "ops/attention/attention.h"

namespace pyllm::attention {
namespace {

[[maybe_unused]] constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
[[maybe_unused]] constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Query heads per kv head.
[[maybe_unused]] inline int64_t group_size(const Problem& p) { return p.kv_heads ? p.heads / p.kv_heads : 1; }

[[maybe_unused]] inline int64_t tile_queries(const Problem& p) {
  const int64_t group = group_size(p);
  return group < kTileRows ? kTileRows / group : 1;
}

[[maybe_unused]] inline Visible visible(const Problem& p, const Sequence& s, int64_t query) {
  return visible_keys(p.intervals, query + s.kv_len - s.q_len, s.kv_len, s.prefix);
}

// Where lse keeps a row.
[[maybe_unused]] inline int64_t row_index(const Problem& p, const Sequence& s, int64_t head, int64_t query) {
  return (s.batch * p.heads + head) * p.tokens + s.first_query + query;
}

template <class T>
[[maybe_unused]] inline T* query_row(const Heads& x, const Sequence& s, int64_t head, int64_t query) {
  return static_cast<T*>(x.data) + s.batch * x.batch + head * x.head + (s.first_query + query) * x.token;
}

template <class T>
[[maybe_unused]] inline T* key_row(const Heads& x, const Sequence& s, int64_t head, int64_t key) {
  return static_cast<T*>(x.data) + s.batch * x.batch + head * x.head + (s.first_key + key) * x.token;
}

// Offset of a row's first key in the dense mask.
[[maybe_unused]] inline int64_t mask_row(const MaskStrides& m, const Sequence& s, int64_t head,
                                         int64_t query) {
  return s.batch * m.batch + head * m.head + query * m.query;
}

// Dropout draws are a function of (seed, stream, query, key): four keys share a Philox block.
[[maybe_unused]] inline uint64_t dropout_stream(const Problem& p, const Sequence& s, int64_t head) {
  return static_cast<uint64_t>((&s - p.sequence) * p.heads + head);
}
[[maybe_unused]] inline uint64_t dropout_index(int64_t query, int64_t key) {
  return static_cast<uint64_t>(query) << 32 | static_cast<uint64_t>(key / 4);
}

// The sequence that holds item `index`, counted over all sequences by `before` (tiles_before or
// blocks_before).
[[maybe_unused]] inline const Sequence& locate(const Problem& p, int64_t Sequence::* before, int64_t index) {
  int64_t low = 0, high = p.sequences - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (p.sequence[middle].*before <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return p.sequence[low];
}

// Tile for step `step` of `count`: first, last, second, last but one ... Causal tiles cost more the later
// they are; in this order every stretch of steps costs the same.
[[maybe_unused]] inline int64_t balanced(int64_t step, int64_t count) {
  return step % 2 == 0 ? step / 2 : count - 1 - step / 2;
}

}  // namespace
}  // namespace pyllm::attention
