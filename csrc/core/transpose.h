// A square block of kLanes x kLanes floats, transposed in registers.
#pragma once

#include "core/vec.h"

namespace pyllm {
namespace {

#if defined(__AVX512F__)

inline Vec unpack_pairs_low(Vec a, Vec b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
inline Vec unpack_pairs_high(Vec a, Vec b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

// Four by four inside the 128-bit lanes, then the lanes themselves as a four by four matrix: 64 shuffles.
[[maybe_unused]] inline void transpose(Vec (&rows)[kLanes]) {
  Vec quads[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const Vec low01 = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    const Vec high01 = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    const Vec low23 = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vec high23 = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
    quads[i] = unpack_pairs_low(low01, low23);
    quads[i + 1] = unpack_pairs_high(low01, low23);
    quads[i + 2] = unpack_pairs_low(high01, high23);
    quads[i + 3] = unpack_pairs_high(high01, high23);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec even_low = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0x88);
    const Vec odd_low = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0xdd);
    const Vec even_high = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0x88);
    const Vec odd_high = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0xdd);
    rows[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    rows[i + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    rows[i + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

#elif defined(__AVX2__)

[[maybe_unused]] inline void transpose(Vec (&rows)[kLanes]) {
  Vec quads[kLanes];
#pragma GCC unroll 2
  for (int i = 0; i < kLanes; i += 4) {
    const Vec low01 = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    const Vec high01 = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const Vec low23 = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vec high23 = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    quads[i] = _mm256_shuffle_ps(low01, low23, 0x44);
    quads[i + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
    quads[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    quads[i + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}

#elif defined(__aarch64__)

[[maybe_unused]] inline void transpose(Vec (&rows)[kLanes]) {
  const float32x4x2_t low = vzipq_f32(rows[0], rows[2]);
  const float32x4x2_t high = vzipq_f32(rows[1], rows[3]);
  const float32x4x2_t first = vzipq_f32(low.val[0], high.val[0]);
  const float32x4x2_t last = vzipq_f32(low.val[1], high.val[1]);
  rows[0] = first.val[0];
  rows[1] = first.val[1];
  rows[2] = last.val[0];
  rows[3] = last.val[1];
}

#endif

// block[i] lane n = src[n * stride + i]: a whole block.
template <class T>
[[maybe_unused]] inline void load_transposed(const T* src, int64_t stride, Vec (&block)[kLanes]) {
#pragma GCC unroll 16
  for (int n = 0; n < kLanes; ++n) block[n] = load(src + n * stride);
  transpose(block);
}

#if defined(__AVX512F__)

// Floats are put into their 128-bit lane as they are loaded, which takes any port: half the shuffles remain.
inline Vec load_quads(const float* src, int64_t stride) {
  const __m512 a = _mm512_castps128_ps512(_mm_loadu_ps(src));
  const __m512 b = _mm512_insertf32x4(a, _mm_loadu_ps(src + stride), 1);
  const __m512 c = _mm512_insertf32x4(b, _mm_loadu_ps(src + 2 * stride), 2);
  return _mm512_insertf32x4(c, _mm_loadu_ps(src + 3 * stride), 3);
}

[[maybe_unused]] inline void load_transposed(const float* src, int64_t stride, Vec (&block)[kLanes]) {
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const Vec q0 = load_quads(src + i, 4 * stride), q1 = load_quads(src + stride + i, 4 * stride);
    const Vec q2 = load_quads(src + 2 * stride + i, 4 * stride);
    const Vec q3 = load_quads(src + 3 * stride + i, 4 * stride);
    const Vec low01 = _mm512_unpacklo_ps(q0, q1), high01 = _mm512_unpackhi_ps(q0, q1);
    const Vec low23 = _mm512_unpacklo_ps(q2, q3), high23 = _mm512_unpackhi_ps(q2, q3);
    block[i] = unpack_pairs_low(low01, low23);
    block[i + 1] = unpack_pairs_high(low01, low23);
    block[i + 2] = unpack_pairs_low(high01, high23);
    block[i + 3] = unpack_pairs_high(high01, high23);
  }
}

#elif defined(__AVX2__)

// Floats are put into their 128-bit lane as they are loaded, which takes any port: two thirds of the shuffles
// remain.
inline Vec load_quads(const float* src, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src)), _mm_loadu_ps(src + stride), 1);
}

[[maybe_unused]] inline void load_transposed(const float* src, int64_t stride, Vec (&block)[kLanes]) {
#pragma GCC unroll 2
  for (int i = 0; i < kLanes; i += 4) {
    const Vec q0 = load_quads(src + i, 4 * stride), q1 = load_quads(src + stride + i, 4 * stride);
    const Vec q2 = load_quads(src + 2 * stride + i, 4 * stride);
    const Vec q3 = load_quads(src + 3 * stride + i, 4 * stride);
    const Vec low01 = _mm256_unpacklo_ps(q0, q1), high01 = _mm256_unpackhi_ps(q0, q1);
    const Vec low23 = _mm256_unpacklo_ps(q2, q3), high23 = _mm256_unpackhi_ps(q2, q3);
    block[i] = _mm256_shuffle_ps(low01, low23, 0x44);
    block[i + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
    block[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    block[i + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
}

#endif

// block[i] lane n = src[n * stride + i] for n < lanes and i < depth, otherwise zero.
template <class T>
[[maybe_unused]] inline void load_transposed(const T* src, int64_t stride, int64_t lanes, int64_t depth,
                                             Vec (&block)[kLanes]) {
  if (lanes == kLanes && depth == kLanes) return load_transposed(src, stride, block);
#pragma GCC unroll 16
  for (int n = 0; n < kLanes; ++n) block[n] = n < lanes ? load_lanes(src + n * stride, depth) : zero();
  transpose(block);
}

}  // namespace
}  // namespace pyllm
