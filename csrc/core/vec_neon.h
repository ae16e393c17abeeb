// Vectors of 4 floats (AArch64 Advanced SIMD). Included by vec.h.
#pragma once

#include <arm_neon.h>

#include <cstddef>

#include "core/dtype.h"

namespace pyllm {
namespace {

using Vec = float32x4_t;
using Mask = uint32x4_t;
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 32;

inline Vec set1(float x) { return vdupq_n_f32(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec min(Vec a, Vec b) {
  return vbslq_f32(vcltq_f32(a, b), a, b);
}  // as x86: the second operand on NaN
inline Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Vec sqrt(Vec a) { return vsqrtq_f32(a); }
inline Vec round(Vec a) { return vrndnq_f32(a); }
inline Vec abs(Vec a) { return vabsq_f32(a); }

// Within 2^-16: an estimate and a step of Newton's.
inline Vec approximate_reciprocal(Vec a) {
  const Vec y = vrecpeq_f32(a);
  return vmulq_f32(y, vrecpsq_f32(a, y));
}

inline Mask less(Vec a, Vec b) { return vcltq_f32(a, b); }
inline Mask is_nan(Vec a) { return vmvnq_u32(vceqq_f32(a, a)); }
inline Mask first_lanes(int64_t n) {
  const uint32_t lane[4] = {0, 1, 2, 3};
  return vcltq_u32(vld1q_u32(lane), vdupq_n_u32(static_cast<uint32_t>(n)));
}
// Lanes of `a` where the mask is set, otherwise of `b`.
inline Vec select(Mask mask, Vec a, Vec b) { return vbslq_f32(mask, a, b); }

// a * 2^n for integral n in [-126, 127].
inline Vec scale_by_power(Vec a, Vec n) {
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

// For 2^x = 2^floor(x) * 2^fraction(x) with x < 128: x where it can be taken apart, x - floor(x) in [0, 1),
// and a * 2^floor(x), zero from 2^-127 down: the power's bits are (floor(x) + 127) * 2^23, and those of 0 are
// zero.
inline Vec floor(Vec x) { return vrndmq_f32(x); }
inline Vec bound_exponent(Vec x) { return max(set1(-127.0f), x); }
inline Vec fraction(Vec x) { return x - floor(x); }
inline Vec scale_by_floor(Vec a, Vec x) {
  const Vec bits = fma(floor(x), set1(0x1p23f), set1(127.0f * 0x1p23f));
  return a * vreinterpretq_f32_s32(vcvtq_s32_f32(bits));
}

inline Vec widen(uint16x4_t raw, bfloat16) { return vreinterpretq_f32_u32(vshll_n_u16(raw, 16)); }
inline Vec widen(uint16x4_t raw, float16) { return vcvt_f32_f16(vreinterpret_f16_u16(raw)); }

// Round to nearest even on the integer image; NaN keeps its payload and stays quiet.
inline uint16x4_t narrow(Vec v, bfloat16) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(is_nan(v), quiet, rounded), 16);
}
inline uint16x4_t narrow(Vec v, float16) { return vreinterpret_u16_f16(vcvt_f16_f32(v)); }

inline Vec load(const float* p) { return vld1q_f32(p); }
inline Vec load(const bfloat16* p) { return widen(vld1_u16(&p->bits), bfloat16{}); }
inline Vec load(const float16* p) { return widen(vld1_u16(&p->bits), float16{}); }
inline void store(float* p, Vec v) { vst1q_f32(p, v); }
inline void store(bfloat16* p, Vec v) { vst1_u16(&p->bits, narrow(v, bfloat16{})); }
inline void store(float16* p, Vec v) { vst1_u16(&p->bits, narrow(v, float16{})); }

// NEON has no masked access: tails go through four elements on the stack.
template <class T>
inline Vec load_partial(const T* p, int64_t n) {
  T lanes[4] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load(lanes);
}
template <class T>
inline void store_partial(T* p, Vec v, int64_t n) {
  T lanes[4];
  store(lanes, v);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}

// Halves are added in a fixed tree.
inline float reduce_add(Vec v) {
  const float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
inline float reduce_max(Vec v) { return vmaxvq_f32(v); }

}  // namespace
}  // namespace pyllm
