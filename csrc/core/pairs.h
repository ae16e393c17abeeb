// 16-bit elements stored side by side in twos, as AMX products read them: (a0 b0)(a1 b1) ... Loads of one
// half as floats. A line of floats holds its halves apart, `apart` elements from each other, so that code
// written for pairs serves them too.
#pragma once

#include "core/vec.h"

namespace pyllm {
namespace {

template <class T>
constexpr bool kPaired = sizeof(T) == 2;

#if defined(__AVX512F__)

inline __m512i load_pairs(const void* p) { return _mm512_loadu_si512(p); }
inline Vec even_half(const bfloat16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(load_pairs(p), 16)); }
inline Vec odd_half(const bfloat16* p) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(load_pairs(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec even_half(const float16* p) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(load_pairs(p))); }
inline Vec odd_half(const float16* p) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(load_pairs(p), 16)));
}

#elif defined(__AVX2__)

inline __m256i load_pairs(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Vec even_half(const bfloat16* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(load_pairs(p), 16)); }
inline Vec odd_half(const bfloat16* p) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(load_pairs(p), _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// The low halves of eight 32-bit lanes, whose high halves are zero.
inline Vec widen_low_halves(__m256i x) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}
inline Vec even_half(const float16* p) {
  return widen_low_halves(_mm256_and_si256(load_pairs(p), _mm256_set1_epi32(0xffff)));
}
inline Vec odd_half(const float16* p) { return widen_low_halves(_mm256_srli_epi32(load_pairs(p), 16)); }

#elif defined(__aarch64__)

inline uint32x4_t load_pairs(const void* p) { return vld1q_u32(static_cast<const uint32_t*>(p)); }
inline Vec even_half(const bfloat16* p) { return vreinterpretq_f32_u32(vshlq_n_u32(load_pairs(p), 16)); }
inline Vec odd_half(const bfloat16* p) {
  return vreinterpretq_f32_u32(vandq_u32(load_pairs(p), vdupq_n_u32(0xffff0000u)));
}
inline Vec even_half(const float16* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(load_pairs(p))));
}
inline Vec odd_half(const float16* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(load_pairs(p), 16)));
}

#endif

// Half 0 or 1 of kLanes pairs at p; of floats, the line at p or the one `apart` further on.
template <int Half, class T>
inline Vec load_half(const T* p, int64_t apart) {
  if constexpr (!kPaired<T>) {
    return load(p + Half * apart);
  } else {
    return Half == 0 ? even_half(p) : odd_half(p);
  }
}

}  // namespace
}  // namespace pyllm
