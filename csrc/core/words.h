// Lanes of 32-bit integers beside vec.h's floats: what turns packed codes into floats. Shifts of Words bring
// in zeros; & | << >> are the compilers' vector operators.
#pragma once

#include "core/vec.h"

namespace pyllm {
namespace {

typedef uint32_t Words __attribute__((vector_size(sizeof(Vec))));
typedef int32_t SignedWords __attribute__((vector_size(sizeof(Vec))));
typedef int8_t SignedBytes __attribute__((vector_size(kLanes)));
typedef uint8_t UnsignedBytes __attribute__((vector_size(kLanes)));

template <class V>
inline V load_vector(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline Words load_words(const void* p) { return load_vector<Words>(p); }

// The word at p in every lane.
[[maybe_unused]] inline Words broadcast_word(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return Words{} + word;
}
inline Vec float_of(SignedWords w) { return __builtin_convertvector(w, Vec); }
inline Vec float_of(Words w) { return float_of(reinterpret_cast<SignedWords>(w)); }  // below 2^31

// kLanes bytes as floats. GCC 12 converts a vector of bytes lane by lane.
[[maybe_unused]] inline Vec load_signed_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(load_vector<SignedBytes>(p), Vec);
#endif
}
// kLanes bytes, each in a word of its own.
[[maybe_unused]] inline Words load_byte_words(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(load_vector<UnsignedBytes>(p), Words);
#endif
}
[[maybe_unused]] inline Vec load_unsigned_bytes(const uint8_t* p) { return float_of(load_byte_words(p)); }

// Byte i of the result is table[byte i of index], for indices below 16. `table`: 16 bytes.
[[maybe_unused]] inline Words lookup_bytes(const int8_t* table, Words index) {
#if defined(__AVX512F__)
  const __m512i entries = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<Words>(_mm512_shuffle_epi8(entries, reinterpret_cast<__m512i>(index)));
#elif defined(__AVX2__)
  const __m256i entries =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<Words>(_mm256_shuffle_epi8(entries, reinterpret_cast<__m256i>(index)));
#else
  return reinterpret_cast<Words>(
      vqtbl1q_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(table)), reinterpret_cast<uint8x16_t>(index)));
#endif
}

// Lane i of the result is table[low four bits of lane i]. `table`: 16 floats.
template <int Shift>
[[maybe_unused]] inline Vec lookup_floats(const float* table, Words word) {
  const Words index = word >> Shift;
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), _mm512_loadu_ps(table));
#elif defined(__AVX2__)
  const __m256i lanes = reinterpret_cast<__m256i>(index);
  const Vec low = _mm256_permutevar8x32_ps(load(table), lanes);
  const Vec high = _mm256_permutevar8x32_ps(load(table + 8), lanes);
  return _mm256_blendv_ps(low, high, reinterpret_cast<__m256>(word << (28 - Shift)));
#else
  Vec found;
  for (int i = 0; i < kLanes; ++i) found[i] = table[index[i] & 15];
  return found;
#endif
}

}  // namespace
}  // namespace pyllm
