// Vectors of 8 floats (AVX2, FMA, F16C). Included by vec.h.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "core/dtype.h"

namespace pyllm {
namespace {

using Vec = __m256;
using Mask = __m256;
constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;

inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec sqrt(Vec a) { return _mm256_sqrt_ps(a); }
inline Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

// Within 2^-22 for finite a: an estimate and a step of Newton's.
inline Vec approximate_reciprocal(Vec a) {
  const Vec y = _mm256_rcp_ps(a);
  return _mm256_mul_ps(y, _mm256_fnmadd_ps(a, y, set1(2.0f)));
}

inline Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask is_nan(Vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
inline __m256i first_lanes_integer(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
inline Mask first_lanes(int64_t n) { return _mm256_castsi256_ps(first_lanes_integer(n)); }
// Lanes of `a` where the mask is set, otherwise of `b`.
inline Vec select(Mask mask, Vec a, Vec b) { return _mm256_blendv_ps(b, a, mask); }

// a * 2^n for integral n in [-126, 127].
inline Vec scale_by_power(Vec a, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// For 2^x = 2^floor(x) * 2^fraction(x) with x < 128: x where it can be taken apart, x - floor(x) in [0, 1),
// and a * 2^floor(x), zero from 2^-127 down: the power's bits are (floor(x) + 127) * 2^23, and those of 0 are
// zero.
inline Vec floor(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline Vec bound_exponent(Vec x) { return max(set1(-127.0f), x); }
inline Vec fraction(Vec x) { return x - floor(x); }
inline Vec scale_by_floor(Vec a, Vec x) {
  const Vec bits = fma(floor(x), set1(0x1p23f), set1(127.0f * 0x1p23f));
  return a * _mm256_castsi256_ps(_mm256_cvtps_epi32(bits));
}

inline Vec widen_bf16(__m128i raw) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}

// AVX2 has no masked 16-bit access: tails go through eight elements on the stack.
inline __m128i load_partial_16bit(const void* p, int64_t n) {
  alignas(16) uint16_t lanes[8] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
}
inline void store_partial_16bit(void* p, __m128i raw, int64_t n) {
  alignas(16) uint16_t lanes[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), raw);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * 2);
}

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const bfloat16* p) {
  return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec load(const float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline Vec load_partial(const float* p, int64_t n) { return _mm256_maskload_ps(p, first_lanes_integer(n)); }
inline Vec load_partial(const bfloat16* p, int64_t n) { return widen_bf16(load_partial_16bit(p, n)); }
inline Vec load_partial(const float16* p, int64_t n) { return _mm256_cvtph_ps(load_partial_16bit(p, n)); }

// Round to nearest even on the integer image; NaN keeps its payload and stays quiet.
inline __m128i to_bf16_bits(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan(v)));
  const __m256i high = _mm256_srli_epi32(chosen, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store(bfloat16* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16_bits(v)); }
inline void store(float16* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline void store_partial(float* p, Vec v, int64_t n) { _mm256_maskstore_ps(p, first_lanes_integer(n), v); }
inline void store_partial(bfloat16* p, Vec v, int64_t n) { store_partial_16bit(p, to_bf16_bits(v), n); }
inline void store_partial(float16* p, Vec v, int64_t n) {
  store_partial_16bit(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), n);
}

// Halves are added in a fixed tree.
inline float reduce_add(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float reduce_max(Vec v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

}  // namespace
}  // namespace pyllm
