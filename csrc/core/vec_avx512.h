// Vectors of 16 floats. Included by vec.h.
#pragma once

#include <immintrin.h>

#include "core/dtype.h"

namespace pyllm {
namespace {

using Vec = __m512;
using Mask = __mmask16;
constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;

inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec sqrt(Vec a) { return _mm512_sqrt_ps(a); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec abs(Vec a) { return _mm512_abs_ps(a); }

// Within 2^-14.
inline Vec approximate_reciprocal(Vec a) { return _mm512_rcp14_ps(a); }

inline Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask is_nan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline Mask first_lanes(int64_t n) { return static_cast<Mask>((1u << n) - 1u); }
// Lanes of `a` where the mask is set, otherwise of `b`.
inline Vec select(Mask mask, Vec a, Vec b) { return _mm512_mask_blend_ps(mask, b, a); }

// a * 2^n for integral n in [-126, 127].
inline Vec scale_by_power(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }

// For 2^x = 2^floor(x) * 2^fraction(x) with x < 128: x where it can be taken apart, x - floor(x) in [0, 1),
// and a * 2^floor(x), zero from 2^-127 down where denormals are flushed. -infinity needs no bound: its
// fraction is 0 and scales by 0.
inline Vec bound_exponent(Vec x) { return x; }
inline Vec fraction(Vec x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline Vec scale_by_floor(Vec a, Vec x) { return _mm512_scalef_ps(a, x); }

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const bfloat16* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
inline Vec load(const float16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline Vec load_partial(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline Vec load_partial(const bfloat16* p, int64_t n) {
  const __m256i raw = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
inline Vec load_partial(const float16* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}

// Round to nearest even on the integer image; NaN keeps its payload and stays quiet.
inline __m256i to_bf16_bits(Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan(v), rounded, quiet), 16));
}

inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store(bfloat16* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(v)); }
inline void store(float16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline void store_partial(float* p, Vec v, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline void store_partial(bfloat16* p, Vec v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), to_bf16_bits(v));
}
inline void store_partial(float16* p, Vec v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Halves are added in a fixed tree.
inline float reduce_add(Vec v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v),
                                    _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float reduce_max(Vec v) { return _mm512_reduce_max_ps(v); }

}  // namespace
}  // namespace pyllm
