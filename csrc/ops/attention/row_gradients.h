// One row of scores in the backward pass: dot products become weights, and the gradients of the weights
// those of the dot products. The scale is left out; it multiplies the sums when they are written.
#pragma once

#include "ops/attention/scores.h"

namespace pyllm::attention {
namespace {

[[maybe_unused]] inline void zero_fill(float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = 0.0f;
}

// Masks that need more than the interval, all of them rare: a softcap, a bias or a draw per score.
[[maybe_unused]] inline bool has_plain_scores(const Problem& p) {
  return !p.mask.data && !p.alibi_slopes && !(p.softcap > 0) && !(p.dropout_p > 0);
}

// A weight is at most 1, whatever rounding the lse has seen.
template <class T>
inline Vec weight_of(Vec score_less_lse) {
  return softmax_exp2<T>(min(zero(), score_less_lse));
}

// Zeros where the row does not see the key.
[[maybe_unused]] inline void clear_hidden(const Visible& v, const RowSpan& r, float* x, float* grad) {
  const Vec head = set1(static_cast<float>(clamp(v.head - r.key, 0, r.count)));
  const Vec low = set1(static_cast<float>(clamp(v.low - r.key, 0, r.count)));
  const Vec high = set1(static_cast<float>(clamp(v.high - r.key, 0, r.count)));
  for (int64_t i = 0; i < r.count; i += kLanes) {
    if (covers(v, r.key + i, r.key + i + kLanes)) continue;
    const Vec column = set1(static_cast<float>(i)) + lane_numbers();
    for (float* line : {x + i, grad + i}) {
      const Vec value = load(line);
      const Vec in_interval = select(less(column, low), zero(), select(less(column, high), value, zero()));
      store(line, select(less(column, head), value, in_interval));
    }
  }
}

// `x` holds dot products and becomes weights, `grad` holds grad_out . v and becomes the gradient of the
// scores. lse is in base 2.
template <class T>
[[maybe_unused]] void plain_row_gradients(const Problem& p, const RowSpan& span, float lse, float delta,
                                          float* x, float* grad) {
  const Vec factor = set1(score_factor(p)), offset = set1(-lse), taken = set1(delta);
  for (int64_t i = 0; i < span.count; i += kLanes) {
    const Vec weight = weight_of<T>(fma(load(x + i), factor, offset));
    store(x + i, weight);
    store(grad + i, weight * (load(grad + i) - taken));
  }
  const Visible v = visible(p, span.s, span.query);
  if (!covers(v, span.key, span.key + span.count)) clear_hidden(v, span, x, grad);
}

// slope[i] = d score / d dot product, over the scale: 1 - tanh^2 under a softcap
[[maybe_unused]] inline void score_slopes(const Problem& p, const float* dots, int64_t count, float* slope) {
  const Vec inner = set1(score_factor(p));
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec t = tanh(load(dots + i) * inner);
    store(slope + i, set1(1.0f) - t * t);
  }
}

// The same under any mask: `x` becomes dropout(weights), `grad` the gradient of the dot products over the
// scale, or of the scores.
template <class T>
[[maybe_unused]] void row_gradients(const Problem& p, const RowSpan& span, float lse, float delta,
                                    bool of_scores, float* x, float* grad) {
  alignas(64) float slope[kBlock], factor[kBlock];
  const bool sloped = p.softcap > 0 && !of_scores;
  if (sloped) score_slopes(p, x, span.count, slope);
  if (p.dropout_p > 0) dropout_factors(p, span, factor);
  score_row(p, span, x);
  for (int64_t i = 0; i < span.count; i += kLanes) {
    const Vec score = load(x + i), weight = weight_of<T>(score - set1(lse));
    const Vec kept = p.dropout_p > 0 ? load(factor + i) : set1(1.0f);
    Vec grad_score = weight * (load(grad + i) * kept - set1(delta));
    if (sloped) grad_score = grad_score * load(slope + i);
    const auto masked = less(score, set1(-kLargest));
    store(x + i, select(masked, zero(), weight * kept));
    store(grad + i, select(masked, zero(), grad_score));
  }
}

}  // namespace
}  // namespace pyllm::attention
