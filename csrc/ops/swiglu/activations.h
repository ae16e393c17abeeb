// Activations on vectors: value and slope together, since backward needs both and they share an exponential.
#pragma once

#include "core/exp2.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::swiglu {
namespace {

struct Activated {
  Vec value, slope;
};

// e^x for x up to 88; results below 2^-126 are zero, NaN passes through. T is the tensors' type: 16 bits need
// one product and three multiply-adds. Floats take the fraction from x itself, log2(e) in two parts, so that
// large |x| keep full accuracy, and six: half the instructions of core/exp2.h's exp, which knows no bounds.
template <class T>
inline Vec exp_for(Vec x) {
  if constexpr (sizeof(T) == 2) {
    return softmax_exp2<T>(x * set1(1.44269504f));
  } else {
    const Vec bounded = max(set1(-88.02f), x), scaled = bounded * set1(1.44269504f);
    const Vec whole = scaled - fraction(scaled);
    const Vec rest = fma(bounded, set1(1.925963033e-8f), fma(bounded, set1(1.44269504f), zero() - whole));
    return scale_by_floor(exp2_unit<false>(rest), scaled);
  }
}

// 1 / d for finite d >= 1. A division takes 10 cycles a vector (AVX-512), the estimate 4.
template <class T>
inline Vec reciprocal_for(Vec d) {
  if constexpr (sizeof(T) == 2) {
    return approximate_reciprocal(d);
  } else {
    return set1(1.0f) / d;
  }
}

// s = 1 / (1 + e^-a) and 1 - s, which is taken as e^-a s, so that it does not cancel where s is near 1. e^88
// is finite; s is then below 2^-126 and flushed to zero.
struct Logistic {
  Vec value, rest;
};
template <class T>
inline Logistic logistic(Vec a) {
  const Vec e = exp_for<T>(min(set1(88.0f), zero() - a));
  const Vec s = reciprocal_for<T>(set1(1.0f) + e);
  return {s, e * s};
}

struct Silu {
  template <class T>
  static Activated activate(Vec g) {
    const Logistic s = logistic<T>(g);
    return {g * s.value, s.value * fma(g, s.rest, set1(1.0f))};
  }
};

struct GeluTanh {
  // (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps its accuracy where tanh(u) is near -1. Beyond 13 the
  // sigmoid is 0 or 1 in float; the clamp keeps the cube finite and lets NaN through.
  template <class T>
  static Activated activate(Vec g) {
    const Vec x = min(set1(13.0f), max(set1(-13.0f), g));
    const Vec square = x * x;
    const Vec scale = set1(static_cast<float>(2 * kSqrtTwoOverPi));
    const Logistic s = logistic<T>(scale * x * fma(square, set1(static_cast<float>(kCubic)), set1(1.0f)));
    const Vec argument_slope = scale * fma(square, set1(static_cast<float>(3 * kCubic)), set1(1.0f));
    return {g * s.value, s.value * fma(x * s.rest, argument_slope, set1(1.0f))};
  }
};

// Phi(-x) / exp(-x^2 / 2) for x >= 0 is t Q(t) with t = 1 / (1 + 0.35 x), the form of Abramowitz and
// Stegun 26.2.17; Q fitted by us, degree 8 at Chebyshev nodes for x <= 14: relative error 4e-8, 3e-7 with
// float rounding.
template <class T>
inline Vec scaled_normal_tail(Vec x) {
  const Vec t = reciprocal_for<T>(fma(x, set1(0.35f), set1(1.0f)));
  Vec q = set1(-2.9552569423790285e-2f);
  q = fma(q, t, set1(1.4589250699465967e-1f));
  q = fma(q, t, set1(-2.5954764983971150e-1f));
  q = fma(q, t, set1(1.6337919551338612e-1f));
  q = fma(q, t, set1(-2.5870835333332240e-2f));
  q = fma(q, t, set1(1.0661400020211798e-1f));
  q = fma(q, t, set1(1.1957015144619268e-1f));
  q = fma(q, t, set1(1.3989555693602077e-1f));
  q = fma(q, t, set1(1.3961962492070545e-1f));
  return t * q;
}

// Phi(x) - 1/2 for |x| <= 1 by its Taylor series, truncated at 1e-9.
inline Vec normal_center(Vec x) {
  const Vec square = x * x;
  Vec center = set1(2.273529824e-09f);
  center = fma(center, square, set1(-4.122667415e-08f));
  center = fma(center, square, set1(6.659693516e-07f));
  center = fma(center, square, set1(-9.444656260e-06f));
  center = fma(center, square, set1(1.154346876e-04f));
  center = fma(center, square, set1(-1.187328215e-03f));
  center = fma(center, square, set1(9.973557010e-03f));
  center = fma(center, square, set1(-6.649038007e-02f));
  center = fma(center, square, set1(3.989422804e-01f));
  return center * x;
}

// Beyond 20 the tail is zero in float; the clamp keeps squares finite and lets NaN through. Near zero the
// tail has lost some last places, which 16 bits do not see.
struct Gelu {
  template <class T>
  static Activated activate(Vec g) {
    const Vec x = min(set1(20.0f), abs(g));
    const Vec gauss = exp_for<T>(set1(-0.5f) * x * x);
    const Vec tail = gauss * scaled_normal_tail<T>(x);
    Vec cdf = select(less(g, zero()), tail, set1(1.0f) - tail);
    if constexpr (sizeof(T) == 4) cdf = select(less(x, set1(1.0f)), set1(0.5f) + normal_center(g), cdf);
    const Vec density = gauss * set1(0.3989422804f);
    return {g * cdf, fma(g, density, cdf)};
  }
};

}  // namespace
}  // namespace pyllm::swiglu
