// What happens to a tile of logits once their products are there, for one vector of tokens at a time.
//
//              a vector of tokens ->
//   vocabulary  l[0]      l[1]    ..           columns of the vocabulary lie `stride` floats apart, so that
//   sums and
//       |       l[stride] ..                   maxima over the vocabulary are vertical: no lane meets another
//       v
//
// Every sum is four chains, of columns 0, 4, 8 .. to 3, 7, 11 .., joined at the block's end.
#pragma once

#include <cfloat>

#include "core/exp2.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int kChainsPerSum = 4;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `columns` of the vocabulary from `column` on, for one vector of tokens.
struct Column {
  float* l;
  int64_t stride, column, columns;
};

// Products x * weight^T -> l, in place.
template <class T>
[[maybe_unused]] void finish(const Problem& p, const Column& c) {
  if (!p.bias && p.softcap == 0 && p.temperature == 1) return;
  const T* bias = p.bias ? static_cast<const T*>(p.bias) + c.column : nullptr;
  const Vec softcap = set1(static_cast<float>(p.softcap));
  const Vec scale = set1(static_cast<float>(1 / p.temperature));
  for (int64_t v = 0; v < c.columns; ++v) {
    Vec l = load(c.l + v * c.stride);
    if (bias) l = l + set1(to_accumulator(bias[v]));
    if (p.softcap > 0) l = softcap * tanh(l / softcap);
    store(c.l + v * c.stride, l * scale);
  }
}

// f(l of column v, chain of v) in ascending order.
template <class F>
[[maybe_unused]] inline void for_each_column(const Column& c, const F& f) {
  int64_t v = 0;
  for (; v + kChainsPerSum <= c.columns; v += kChainsPerSum) {
#pragma GCC unroll 4
    for (int i = 0; i < kChainsPerSum; ++i) f(load(c.l + (v + i) * c.stride), i);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kChainsPerSum; ++i) {
    if (v + i < c.columns) f(load(c.l + (v + i) * c.stride), i);
  }
}

inline Vec joined(const Vec (&chains)[kChainsPerSum]) {
  return (chains[0] + chains[1]) + (chains[2] + chains[3]);
}

// A block's part of the statistics of a vector of tokens; `sum` is that of exp(l - max).
struct Partial {
  Vec max, sum, total;
};

[[maybe_unused]] inline Partial summarize(const Column& c) {
  Vec highest[kChainsPerSum], total[kChainsPerSum], sum[kChainsPerSum];
  for (int i = 0; i < kChainsPerSum; ++i) {
    highest[i] = set1(-FLT_MAX);
    total[i] = sum[i] = zero();
  }
  for_each_column(c, [&](Vec l, int i) {
    highest[i] = max(l, highest[i]);
    total[i] = total[i] + l;
  });
  const Vec largest = max(max(highest[0], highest[1]), max(highest[2], highest[3]));
  for_each_column(c, [&](Vec l, int i) { sum[i] = sum[i] + exp(l - largest); });
  return {largest, joined(sum), joined(total)};
}

// Coefficients of a vector of tokens.
struct LaneCoefficients {
  Vec lse, softmax, all;
};

// The derivative of l by the logit: (1 - tanh^2) / temperature.
struct Slope {
  Vec scale, bounded;

  explicit Slope(const Problem& p)
      : scale(set1(static_cast<float>(1 / p.temperature))),
        bounded(set1(static_cast<float>(p.softcap > 0 ? p.temperature / p.softcap : 0))) {}
  Vec operator()(Vec l) const {
    const Vec tanh = l * bounded;
    return fma(zero() - tanh, tanh, set1(1.0f)) * scale;
  }
};

// l -> its gradient for tokens whose target is elsewhere; `write` takes column and gradient.
template <class F>
[[maybe_unused]] inline void differentiate(const Problem& p, const Column& c, const LaneCoefficients& k,
                                           const F& write) {
  if (p.softcap == 0 && p.temperature == 1 && p.label_smoothing == 0) {
    for (int64_t v = 0; v < c.columns; ++v) {
      write(v, exp(load(c.l + v * c.stride) - k.lse) * k.softmax);
    }
    return;
  }
  const Slope slope(p);
  for (int64_t v = 0; v < c.columns; ++v) {
    const Vec l = load(c.l + v * c.stride);
    write(v, fma(exp(l - k.lse), k.softmax, zero() - k.all) * slope(l));
  }
}

// The gradient at the target, of its l.
[[maybe_unused]] inline float gradient_at_target(const Problem& p, const Coefficients& c, float l) {
  const Vec at = set1(l), constant = set1(static_cast<float>(c.all + c.target));
  const Vec e = exp(at - set1(static_cast<float>(c.lse)));
  float lanes[kLanes];
  store(lanes, fma(e, set1(static_cast<float>(c.softmax)), zero() - constant) * Slope(p)(at));
  return lanes[0];
}

}  // namespace
}  // namespace pyllm::linear_cross_entropy
