// From dot products to softmax weights, a row of one key block at a time. Scores are kept in base 2, so that
// the running maximum can be an integer and rescaling by it exact.
#pragma once

#include <limits>

#include "core/exp2.h"
#include "core/random.h"
#include "ops/attention/geometry.h"

namespace pyllm::attention {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The keys [key, key + count) as one row sees them.
struct RowSpan {
  const Sequence& s;
  int64_t head, query, key, count;
};

[[maybe_unused]] inline Vec lane_numbers() {
  static constexpr float kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kNumbers);
}

// x[i] -= slope * |position - key|, in base 2.
[[maybe_unused]] inline void add_alibi(const Problem& p, const RowSpan& r, float* x) {
  const Vec slope = set1(-static_cast<float>(p.alibi_slopes[r.head]) * kLog2E);
  const int64_t position = r.query + r.s.kv_len - r.s.q_len;
  for (int64_t i = 0; i < r.count; i += kLanes) {
    const Vec distance = set1(static_cast<float>(position - r.key - i)) - lane_numbers();
    store(x + i, fma(slope, abs(distance), load(x + i)));
  }
}

// The dense mask along a row, as floats: what it adds, or -inf and 0.
[[maybe_unused]] inline void load_mask(const DenseMask& mask, int64_t offset, int64_t count, float* line) {
  const int64_t stride = mask.strides.key;
  if (mask.boolean) {
    const uint8_t* attend = static_cast<const uint8_t*>(mask.data) + offset;
    for (int64_t i = 0; i < count; ++i) line[i] = attend[i * stride] ? 0.0f : -kInfinity;
    return;
  }
  visit(mask.dtype, [&](auto zero) {
    const auto* values = static_cast<const decltype(zero)*>(mask.data) + offset;
    for (int64_t i = 0; i < count; ++i) line[i] = static_cast<float>(to_accumulator(values[i * stride]));
  });
}

// Adds the dense mask. Scores under -inf become -inf even where they are NaN; finite values stay finite in
// base 2, so that a mask of the lowest float still leaves a softmax.
[[maybe_unused]] inline void add_dense_mask(const Problem& p, const RowSpan& r, float* x) {
  alignas(64) float line[kBlock] = {};
  load_mask(p.mask, mask_row(p.mask.strides, r.s, r.head, r.query) + r.key * p.mask.strides.key,
            smaller(r.count, r.s.kv_len - r.key), line);
  for (int64_t i = 0; i < r.count; i += kLanes) {
    const Vec value = load(line + i);
    const Vec sum = load(x + i) + max(set1(-kLargest), value * set1(kLog2E));
    store(x + i, select(less(value, set1(-kLargest)), set1(-kInfinity), sum));
  }
}

// Invisible keys become -inf.
[[maybe_unused]] inline void hide(const Visible& v, const RowSpan& r, float* x) {
  const Vec head = set1(static_cast<float>(clamp(v.head - r.key, 0, r.count)));
  const Vec low = set1(static_cast<float>(clamp(v.low - r.key, 0, r.count)));
  const Vec high = set1(static_cast<float>(clamp(v.high - r.key, 0, r.count)));
  const Vec hidden = set1(-kInfinity);
  // Whole vectors inside the interval are passed over at once: a row has two edges.
  const int64_t seen = ceil_div(clamp(v.low - r.key, 0, r.count), kLanes) * kLanes;
  const int64_t unseen = clamp(v.high - r.key, 0, r.count) / kLanes * kLanes;
  for (int64_t i = 0; i < r.count; i += kLanes) {
    if (i >= seen && i < unseen) i = unseen;
    if (i == r.count) return;
    if (r.key + i + kLanes <= v.head) continue;
    const Vec column = set1(static_cast<float>(i)) + lane_numbers(), score = load(x + i);
    const Vec in_interval = select(less(column, low), hidden, select(less(column, high), score, hidden));
    store(x + i, select(less(column, head), score, in_interval));
  }
}

// What dot products are multiplied by first: with a softcap the scale over it, otherwise the scale in base 2.
[[maybe_unused]] inline float score_factor(const Problem& p) {
  return static_cast<float>(p.softcap > 0 ? p.scale / p.softcap : p.scale * 1.4426950408889634);
}

// Turns a row's dot products, already multiplied by score_factor(), into base-2 scores in place.
[[maybe_unused]] inline void adjust_scores(const Problem& p, const RowSpan& r, float* x) {
  if (p.softcap > 0) {
    const Vec outer = set1(static_cast<float>(p.softcap) * kLog2E);
    for (int64_t i = 0; i < r.count; i += kLanes) store(x + i, outer * tanh(load(x + i)));
  }
  if (p.alibi_slopes) add_alibi(p, r, x);
  if (p.mask.data) add_dense_mask(p, r, x);
  const Visible v = visible(p, r.s, r.query);
  if (!covers(v, r.key, r.key + r.count)) hide(v, r, x);
}

// The same from the dot products.
[[maybe_unused]] inline void score_row(const Problem& p, const RowSpan& r, float* x) {
  const Vec factor = set1(score_factor(p));
  for (int64_t i = 0; i < r.count; i += kLanes) store(x + i, load(x + i) * factor);
  adjust_scores(p, r, x);
}

// factor[i] = 0 for dropped keys, otherwise 1 / (1 - p).
[[maybe_unused]] inline void dropout_factors(const Problem& p, const RowSpan& r, float* factor) {
  const float threshold = static_cast<float>(p.dropout_p);
  const float kept = static_cast<float>(1.0 / (1.0 - p.dropout_p));
  const uint64_t stream = dropout_stream(p, r.s, r.head);
  for (int64_t i = 0; i < r.count; i += 4) {
    const PhiloxBlock block = philox(p.seed, stream, dropout_index(r.query, r.key + i));
    for (int64_t j = 0; j < 4; ++j) {
      factor[i + j] = uniform01(block[static_cast<size_t>(j)]) >= threshold ? kept : 0.0f;
    }
  }
}

}  // namespace
}  // namespace pyllm::attention
