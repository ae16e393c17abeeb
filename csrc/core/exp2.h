// exp2, exp and tanh on vectors, by range reduction and a polynomial: about 1 ulp in float.
#pragma once

#include "core/vec.h"

namespace pyllm {
namespace {

// 2^f for f in [-0.5, 0.5]; coefficients ln(2)^k / k!, relative error below 2e-8 at degree 7.
inline Vec exp2_fraction(Vec f) {
  Vec p = set1(1.5252733804059841e-5f);
  p = fma(p, f, set1(1.5403530393381609e-4f));
  p = fma(p, f, set1(1.3333558146428443e-3f));
  p = fma(p, f, set1(9.6181291076284772e-3f));
  p = fma(p, f, set1(5.5504108664821580e-2f));
  p = fma(p, f, set1(2.4022650695910072e-1f));
  p = fma(p, f, set1(6.9314718055994531e-1f));
  return fma(p, f, set1(1.0f));
}

// 2^(n + f) with NaN passed through. Results below 2^-126 are flushed to zero, above 2^128 become infinite.
inline Vec exp2_split(Vec n, Vec f) {
  const Vec half = round(n * set1(0.5f));
  return scale_by_power(scale_by_power(exp2_fraction(f), half), n - half);
}

// 2^f for f in [0, 1): the polynomials of least relative error that are 1 at 0. Degree 6 is within 1.1 ulp,
// degree 3 within 2^-13.5, a fifth of the rounding of a 16-bit float.
template <bool Low>
inline Vec exp2_unit(Vec f) {
  if constexpr (Low) {
    const Vec p = fma(set1(0.07706704f), f, set1(0.227645f));
    return fma(fma(p, f, set1(0.69511676f)), f, set1(1.0f));
  } else {
    Vec p = fma(set1(2.1612915e-4f), f, set1(1.2467847e-3f));
    p = fma(p, f, set1(9.6754516e-3f));
    p = fma(p, f, set1(5.5485282e-2f));
    p = fma(p, f, set1(0.24022931f));
    p = fma(p, f, set1(0.69314706f));
    return fma(p, f, set1(1.0f));
  }
}

// 2^x for the weights of a softmax: x is a score less its row's maximum or logarithm of sums, so at most a
// little above 0 (denormals must be flushed: core/parallel.h). Results below 2^-126 are zero, that of
// -infinity too; NaN passes through. T is the tensors' type: for 16-bit ones three of the six multiply-adds
// are enough. Instructions a vector: 8 (AVX-512) and 13 (AVX2 and NEON) for float, 5 and 10 for 16 bits; exp2
// has 17 and 23.
template <class T>
[[maybe_unused]] inline Vec softmax_exp2(Vec x) {
  const Vec bounded = bound_exponent(x);
  return scale_by_floor(exp2_unit<sizeof(T) == 2>(fraction(bounded)), bounded);
}

// 2^x
[[maybe_unused]] inline Vec exp2(Vec x) {
  // max(bound, x) returns x where x is NaN, so NaN reaches the result.
  const Vec clamped = min(set1(129.0f), max(set1(-152.0f), x));
  const Vec n = round(clamped);
  return exp2_split(n, clamped - n);
}

// e^x; ln(2) is taken off in two parts, so that large |x| keep full accuracy (Cody and Waite, 1980).
[[maybe_unused]] inline Vec exp(Vec x) {
  const Vec clamped = min(set1(89.0f), max(set1(-104.0f), x));
  const Vec n = round(clamped * set1(1.44269504f));
  Vec r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  return exp2_split(n, r * set1(1.44269504f));
}

// tanh(x) = 1 - 2 / (e^2x + 1), with an odd polynomial near zero where that form cancels.
[[maybe_unused]] inline Vec tanh(Vec x) {
  const Vec magnitude = min(set1(10.0f), abs(x));
  const Vec large = set1(1.0f) - set1(2.0f) / (exp(magnitude + magnitude) + set1(1.0f));
  const Vec square = x * x;
  Vec p = set1(-8.8632355e-3f);
  p = fma(p, square, set1(2.1869488e-2f));
  p = fma(p, square, set1(-5.3968254e-2f));
  p = fma(p, square, set1(1.3333333e-1f));
  p = fma(p, square, set1(-3.3333333e-1f));
  const Vec small = fma(p * square, x, x);
  const Vec signed_large = select(less(x, zero()), zero() - large, large);
  return select(is_nan(x), x, select(less(abs(x), set1(0.25f)), small, signed_large));
}

// 1 / (1 + e^-x)
[[maybe_unused]] inline Vec sigmoid(Vec x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

}  // namespace
}  // namespace pyllm
