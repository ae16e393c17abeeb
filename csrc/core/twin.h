// Two vectors' worth of neighbours, as row kernels take them.
//
//   bfloat16   e0 o0 e1 o1 e2 o2 ...   -> first = e0 e1 e2 ..., second = o0 o1 o2 ...
//   others     a0 a1 a2 ... b0 b1 ...  -> first = a0 a1 a2 ..., second = b0 b1 ...
//
// A 32-bit lane holds two bfloat16, so taking the even and the odd ones apart costs a shift and a mask, and
// putting them back a shift and a blend: no element leaves its lane. Widening neighbours to a vector and
// narrowing it again costs more than twice as many instructions (AVX-512: 6 and 20 for 32 elements, here 2
// and 10), which for norms and activations is more than their arithmetic. Sums over a row take the lanes as
// they come; only what is stored must be in order, and a Twin is stored as it was loaded.
#pragma once

#include "core/pairs.h"
#include "core/vec.h"

namespace pyllm {
namespace {

struct Twin {
  Vec first, second;
};

constexpr int64_t kTwin = 2 * kLanes;

// An output of this size is not found in a cache by who reads it next, so it goes around the caches: a store
// into one first reads the line that it overwrites. Measured (2 cores, 36 MB of last-level cache shared with
// others): swiglu of 45 MB takes 6.5 ms instead of 7.4; a chain of norms, each reading what the one before
// wrote, gains nothing at 32 and 64 MB and loses up to 15% at 2 to 8 MB.
constexpr int64_t kStreamedBytes = int64_t{32} << 20;
constexpr int64_t kLineBytes = 64;

[[maybe_unused]] inline Twin load_twin(const float* p) { return {load(p), load(p + kLanes)}; }
[[maybe_unused]] inline Twin load_twin(const float16* p) { return {load(p), load(p + kLanes)}; }
[[maybe_unused]] inline Twin load_twin(const bfloat16* p) { return {even_half(p), odd_half(p)}; }

#if defined(__AVX512F__)

using TwinBits = __m512i;

// Round to nearest even. v is a result of arithmetic, so a NaN is quiet: its upper half is one too.
inline __m512i round_to_upper_half(Vec v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_mask_blend_epi32(odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
  return _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), bits, half);
}
inline TwinBits twin_bits(Twin t) {
  const __m512i even = _mm512_srli_epi32(round_to_upper_half(t.first), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaau, even, round_to_upper_half(t.second));
}
[[maybe_unused]] inline void store_twin(bfloat16* p, Twin t) { _mm512_storeu_si512(p, twin_bits(t)); }

[[maybe_unused]] inline void stream(float* p, Vec v) { _mm512_stream_ps(p, v); }
[[maybe_unused]] inline void stream_twin(bfloat16* p, Twin t) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), twin_bits(t));
}
[[maybe_unused]] inline void stream_twin(float16* p, Twin t) {
  const __m256i low = _mm512_cvtps_ph(t.first, _MM_FROUND_TO_NEAREST_INT);
  const __m256i high = _mm512_cvtps_ph(t.second, _MM_FROUND_TO_NEAREST_INT);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p),
                      _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

#elif defined(__AVX2__)

using TwinBits = __m256i;

// As above.
inline __m256i round_to_upper_half(Vec v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i ordered = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_ORD_Q));
  const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  return _mm256_add_epi32(bits, _mm256_and_si256(ordered, half));
}
inline TwinBits twin_bits(Twin t) {
  const __m256i even = _mm256_srli_epi32(round_to_upper_half(t.first), 16);
  return _mm256_blend_epi16(even, round_to_upper_half(t.second), 0xaa);
}
[[maybe_unused]] inline void store_twin(bfloat16* p, Twin t) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), twin_bits(t));
}

[[maybe_unused]] inline void stream(float* p, Vec v) { _mm256_stream_ps(p, v); }
[[maybe_unused]] inline void stream_twin(bfloat16* p, Twin t) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), twin_bits(t));
}
[[maybe_unused]] inline void stream_twin(float16* p, Twin t) {
  const __m128i low = _mm256_cvtps_ph(t.first, _MM_FROUND_TO_NEAREST_INT);
  const __m128i high = _mm256_cvtps_ph(t.second, _MM_FROUND_TO_NEAREST_INT);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm256_set_m128i(high, low));
}

#elif defined(__aarch64__)

inline uint32x4_t round_to_upper_half(Vec v) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
  return vaddq_u32(bits, vandq_u32(vceqq_f32(v, v), half));
}
[[maybe_unused]] inline void store_twin(bfloat16* p, Twin t) {
  const uint32x4_t even = vshrq_n_u32(round_to_upper_half(t.first), 16);
  vst1q_u32(reinterpret_cast<uint32_t*>(p),
            vbslq_u32(vdupq_n_u32(0xffff0000u), round_to_upper_half(t.second), even));
}

// No intrinsic writes around the caches, and cores detect rows of whole lines by themselves.
[[maybe_unused]] inline void stream(float* p, Vec v) { store(p, v); }
[[maybe_unused]] inline void stream_twin(bfloat16* p, Twin t) { store_twin(p, t); }

#endif

template <class T>
[[maybe_unused]] inline void store_twin(T* p, Twin t) {
  store(p, t.first);
  store(p + kLanes, t.second);
}

#if defined(__aarch64__)
[[maybe_unused]] inline void stream_twin(float16* p, Twin t) { store_twin(p, t); }
#endif
[[maybe_unused]] inline void stream_twin(float* p, Twin t) {
  stream(p, t.first);
  stream(p + kLanes, t.second);
}

// Orders streamed stores before whatever this thread does next: once at the end of its part.
[[maybe_unused]] inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The first n < kTwin elements; the others are read as zero, and not written.
template <class T>
[[maybe_unused]] inline Twin load_twin_partial(const T* p, int64_t n) {
  T lanes[kTwin] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load_twin(lanes);
}
template <class T>
[[maybe_unused]] inline void store_twin_partial(T* p, Twin t, int64_t n) {
  T lanes[kTwin];
  store_twin(lanes, t);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
}

template <class T>
[[maybe_unused]] inline Twin load_twin(const T* p, int64_t n) {
  return n == kTwin ? load_twin(p) : load_twin_partial(p, n);
}
template <class T>
[[maybe_unused]] inline void store_twin(T* p, Twin t, int64_t n) {
  if (n == kTwin) {
    store_twin(p, t);
  } else {
    store_twin_partial(p, t, n);
  }
}

// True if an output of `rows` rows is large, and each of its twins lies on a border that streams need.
template <class T>
[[maybe_unused]] bool streams(const T* out, int64_t rows, int64_t columns) {
  const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(T));
  return rows * row_bytes >= kStreamedBytes && row_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(out) % kLineBytes == 0;
}

// A twin, or the first n of one, through the caches or around them.
template <class T>
[[maybe_unused]] inline void put_twin(T* p, Twin t, int64_t n, bool streamed) {
  if (streamed) {
    stream_twin(p, t);
  } else {
    store_twin(p, t, n);
  }
}

// f(offset, elements) over [0, count): whole twins, then a part of one.
template <class F>
[[maybe_unused]] inline __attribute__((always_inline)) void for_each_twin(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kTwin <= count; i += kTwin) f(i, int64_t{kTwin});
  if (i < count) f(i, count - i);
}

}  // namespace
}  // namespace pyllm
