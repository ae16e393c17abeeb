// AVX-512 in AVX2: included before every file of the avx512 and amx levels in a build with
// -DPYLLM_SOFTWARE_AVX512=ON, so that their kernels are tested on machines that lack it.
//
// The names stand in namespace pyllm, where the kernels' own lookup finds them before the compiler's. Each is
// the instruction as Intel's manual defines it, on two halves where AVX2 has it, on lanes otherwise. Rounding
// is the instruction's but for _mm512_rcp14_ps, which is exact here. A kernel that uses an instruction not
// listed does not compile: add it.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

// What vec.h asks for; only now, or the compiler's header would take it for its own.
#define __AVX512F__ 1

// Without optimization these are macros, which no namespace hides.
#undef _mm512_cmp_ps_mask
#undef _mm512_cvtps_ph
#undef _mm512_extractf64x4_pd
#undef _mm512_insertf32x4
#undef _mm512_inserti32x4
#undef _mm512_inserti64x4
#undef _mm512_mask_blend_epi16
#undef _mm512_reduce_ps
#undef _mm512_roundscale_ps
#undef _mm512_setr_epi64
#undef _mm512_shuffle_f32x4
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32

namespace pyllm {
namespace {
namespace emulated {

union Vector {
  __m512 ps;
  __m512d pd;
  __m512i si;
  __m256 half_ps[2];
  __m256i half_si[2];
  float f32[16];
  int8_t i8[64];
  uint8_t u8[64];
  int16_t i16[32];
  uint16_t u16[32];
  int32_t i32[16];
  uint32_t u32[16];
  int64_t i64[8];
};

inline Vector of(__m512 v) { return {.ps = v}; }
inline Vector of(__m512i v) { return {.si = v}; }
inline Vector zeros() { return {.i64 = {}}; }

template <class F>
inline __m512 halves_ps(const F& f) {
  Vector r;
  for (int i = 0; i < 2; ++i) r.half_ps[i] = f(i);
  return r.ps;
}
template <class F>
inline __m512i halves_si(const F& f) {
  Vector r;
  for (int i = 0; i < 2; ++i) r.half_si[i] = f(i);
  return r.si;
}
// f(lane) for each of Count lanes as the bits of a mask.
template <int Count, class F>
inline uint64_t mask_of(const F& f) {
  uint64_t mask = 0;
  for (int i = 0; i < Count; ++i) mask |= static_cast<uint64_t>(f(i)) << i;
  return mask;
}
// to[i] = f(i) where the mask is set, otherwise as it was.
template <class Lane, int Count, class F>
inline void fill(Lane (&to)[Count], uint64_t mask, const F& f) {
  for (int i = 0; i < Count; ++i) {
    if (mask >> i & 1) to[i] = f(i);
  }
}
constexpr uint64_t kAll = ~uint64_t{0};

inline float power_of_two(float a, float exponent) {
  if (std::isnan(exponent)) return exponent;
  const double bounded = std::fmin(std::fmax(std::floor(static_cast<double>(exponent)), -400.0), 400.0);
  return static_cast<float>(std::ldexp(static_cast<double>(a), static_cast<int>(bounded)));
}

// To bf16, nearest even; denormals become zero and NaN quiet, whatever the control register says.
inline uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) == 0) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace emulated

// --- constants, casts, loads, stores
// ---------------------------------------------------------------------------------

inline __m512 _mm512_setzero_ps() { return emulated::zeros().ps; }
inline __m512i _mm512_setzero_si512() { return emulated::zeros().si; }
inline __m512 _mm512_set1_ps(float x) {
  return emulated::halves_ps([&](int) { return _mm256_set1_ps(x); });
}
inline __m512i _mm512_set1_epi8(char x) {
  return emulated::halves_si([&](int) { return _mm256_set1_epi8(x); });
}
inline __m512i _mm512_set1_epi16(short x) {
  return emulated::halves_si([&](int) { return _mm256_set1_epi16(x); });
}
inline __m512i _mm512_set1_epi32(int x) {
  return emulated::halves_si([&](int) { return _mm256_set1_epi32(x); });
}
inline __m512i _mm512_setr_epi64(long long a, long long b, long long c, long long d, long long e, long long f,
                                 long long g, long long h) {
  return emulated::Vector{.i64 = {a, b, c, d, e, f, g, h}}.si;
}
// The last argument is the first lane.
template <class... Lanes>
inline __m512i _mm512_set_epi16(Lanes... last_to_first) {
  static_assert(sizeof...(Lanes) == 32);
  const int lanes[] = {last_to_first...};
  emulated::Vector r;
  for (int i = 0; i < 32; ++i) r.i16[i] = static_cast<int16_t>(lanes[31 - i]);
  return r.si;
}

inline __m512i _mm512_castps_si512(__m512 v) { return emulated::of(v).si; }
inline __m512 _mm512_castsi512_ps(__m512i v) { return emulated::of(v).ps; }
inline __m512d _mm512_castps_pd(__m512 v) { return emulated::of(v).pd; }
inline __m512 _mm512_castpd_ps(__m512d v) { return emulated::Vector{.pd = v}.ps; }
inline __m256 _mm512_castps512_ps256(__m512 v) { return emulated::of(v).half_ps[0]; }
inline __m512i _mm512_castsi256_si512(__m256i v) { return emulated::Vector{.half_si = {v, {}}}.si; }
inline __m512i _mm512_castsi128_si512(__m128i v) { return _mm512_castsi256_si512(_mm256_zextsi128_si256(v)); }
inline __m512 _mm512_castps128_ps512(__m128 v) {
  return _mm512_castsi512_ps(_mm512_castsi128_si512(_mm_castps_si128(v)));
}

inline __m512 _mm512_loadu_ps(const void* p) {
  emulated::Vector r;
  std::memcpy(&r, p, sizeof r);
  return r.ps;
}
inline __m512i _mm512_loadu_si512(const void* p) { return _mm512_castps_si512(_mm512_loadu_ps(p)); }
inline void _mm512_storeu_ps(void* p, __m512 v) { std::memcpy(p, &v, sizeof v); }
inline void _mm512_storeu_si512(void* p, __m512i v) { std::memcpy(p, &v, sizeof v); }
// Aligned forms fault on other addresses, as the instructions do.
inline __m512 _mm512_load_ps(const void* p) { return *static_cast<const __m512*>(p); }
inline __m512i _mm512_load_si512(const void* p) { return *static_cast<const __m512i*>(p); }
inline void _mm512_store_ps(void* p, __m512 v) {
  const emulated::Vector x = emulated::of(v);
  for (int i = 0; i < 2; ++i) _mm256_store_ps(static_cast<float*>(p) + 8 * i, x.half_ps[i]);
}
inline void _mm512_store_si512(void* p, __m512i v) { _mm512_store_ps(p, _mm512_castsi512_ps(v)); }
inline void _mm512_stream_ps(void* p, __m512 v) { _mm512_store_ps(p, v); }
inline void _mm512_stream_si512(__m512i* p, __m512i v) { _mm512_store_si512(p, v); }

inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  emulated::Vector r = emulated::zeros();
  emulated::fill(r.f32, mask, [&](int i) { return static_cast<const float*>(p)[i]; });
  return r.ps;
}
inline __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* p) {
  emulated::Vector r = emulated::zeros();
  const auto* from = static_cast<const char*>(p);
  emulated::fill(r.i16, mask, [&](int i) {
    int16_t lane;
    std::memcpy(&lane, from + 2 * i, sizeof lane);
    return lane;
  });
  return r.si;
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* p) {
  return emulated::of(_mm512_maskz_loadu_epi16(mask, p)).half_si[0];
}
inline void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 v) {
  const emulated::Vector x = emulated::of(v);
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 4 * i, &x.f32[i], 4);
  }
}
inline void _mm512_mask_storeu_epi16(void* p, __mmask32 mask, __m512i v) {
  const emulated::Vector x = emulated::of(v);
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 2 * i, &x.i16[i], 2);
  }
}
inline void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i v) {
  _mm512_mask_storeu_epi16(p, mask, _mm512_castsi256_si512(v));
}

// --- arithmetic
// ------------------------------------------------------------------------------------------------------

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b), z = emulated::of(c);
  return emulated::halves_ps(
      [&](int i) { return _mm256_fmadd_ps(x.half_ps[i], y.half_ps[i], z.half_ps[i]); });
}
inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_ps([&](int i) { return _mm256_min_ps(x.half_ps[i], y.half_ps[i]); });
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_ps([&](int i) { return _mm256_max_ps(x.half_ps[i], y.half_ps[i]); });
}
inline __m512 _mm512_sqrt_ps(__m512 a) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_ps([&](int i) { return _mm256_sqrt_ps(x.half_ps[i]); });
}
inline __m512 _mm512_rcp14_ps(__m512 a) { return _mm512_set1_ps(1.0f) / a; }
// To the nearest integer, the only form in use.
inline __m512 _mm512_roundscale_ps(__m512 a, int) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_ps(
      [&](int i) { return _mm256_round_ps(x.half_ps[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); });
}
// What is left above the integer below, the only form in use; nothing is left of infinities.
inline __m512 _mm512_reduce_ps(__m512 a, int) {
  emulated::Vector x = emulated::of(a);
  for (float& lane : x.f32) lane = std::isinf(lane) ? 0.0f : lane - std::floor(lane);
  return x.ps;
}
inline __m512 _mm512_scalef_ps(__m512 a, __m512 exponents) {
  emulated::Vector x = emulated::of(a);
  const emulated::Vector n = emulated::of(exponents);
  for (int i = 0; i < 16; ++i) x.f32[i] = emulated::power_of_two(x.f32[i], n.f32[i]);
  return x.ps;
}
inline float _mm512_reduce_max_ps(__m512 a) {
  const emulated::Vector x = emulated::of(a);
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(_mm256_max_ps(x.half_ps[0], x.half_ps[1])),
                              _mm256_extractf128_ps(_mm256_max_ps(x.half_ps[0], x.half_ps[1]), 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512 _mm512_abs_ps(__m512 a) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
}
inline __m512i _mm512_sub_epi8(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_si([&](int i) { return _mm256_sub_epi8(x.half_si[i], y.half_si[i]); });
}
inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_ps([&](int i) { return _mm256_cvtepi32_ps(x.half_si[i]); });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  return emulated::halves_si([&](int i) { return _mm256_cvtepi8_epi32(i ? _mm_bsrli_si128(a, 8) : a); });
}
inline __m512i _mm512_cvtepu8_epi32(__m128i a) {
  return emulated::halves_si([&](int i) { return _mm256_cvtepu8_epi32(i ? _mm_bsrli_si128(a, 8) : a); });
}
inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  return emulated::halves_si([&](int) { return _mm256_broadcastsi128_si256(a); });
}
inline __m512 _mm512_permutexvar_ps(__m512i order, __m512 a) {
  emulated::Vector r;
  const emulated::Vector x = emulated::of(a), y = emulated::of(order);
  for (int i = 0; i < 16; ++i) r.f32[i] = x.f32[y.i32[i] & 15];
  return r.ps;
}
inline __m512i _mm512_abs_epi8(__m512i a) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_si([&](int i) { return _mm256_abs_epi8(x.half_si[i]); });
}
inline __m512i _mm512_maddubs_epi16(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_si([&](int i) { return _mm256_maddubs_epi16(x.half_si[i], y.half_si[i]); });
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_si([&](int i) { return _mm256_madd_epi16(x.half_si[i], y.half_si[i]); });
}
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i order) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(order);
  return emulated::halves_si([&](int i) { return _mm256_shuffle_epi8(x.half_si[i], y.half_si[i]); });
}
inline __m512i _mm512_mask_sub_epi8(__m512i source, __mmask64 mask, __m512i a, __m512i b) {
  emulated::Vector r = emulated::of(source);
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  for (int i = 0; i < 64; ++i) r.i8[i] = mask >> i & 1 ? static_cast<int8_t>(x.i8[i] - y.i8[i]) : r.i8[i];
  return r.si;
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::halves_si([&](int i) { return _mm256_add_epi32(x.half_si[i], y.half_si[i]); });
}
inline __m512i _mm512_mask_add_epi32(__m512i otherwise, __mmask16 mask, __m512i a, __m512i b) {
  emulated::Vector r = emulated::of(otherwise);
  const emulated::Vector sum = emulated::of(_mm512_add_epi32(a, b));
  emulated::fill(r.i32, mask, [&](int i) { return sum.i32[i]; });
  return r.si;
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_si(
      [&](int i) { return _mm256_sll_epi32(x.half_si[i], _mm_cvtsi32_si128(static_cast<int>(count))); });
}
inline __m512i _mm512_srli_epi32(__m512i a, unsigned count) {
  const emulated::Vector x = emulated::of(a);
  return emulated::halves_si(
      [&](int i) { return _mm256_srl_epi32(x.half_si[i], _mm_cvtsi32_si128(static_cast<int>(count))); });
}

// --- conversions
// -----------------------------------------------------------------------------------------------------

inline __m512 _mm512_cvtph_ps(__m256i a) {
  return emulated::halves_ps([&](int i) {
    return _mm256_cvtph_ps(i == 0 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1));
  });
}
// To nearest even, the only form in use.
inline __m256i _mm512_cvtps_ph(__m512 a, int) {
  const emulated::Vector x = emulated::of(a);
  const __m128i low = _mm256_cvtps_ph(x.half_ps[0], _MM_FROUND_TO_NEAREST_INT);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low),
                                 _mm256_cvtps_ph(x.half_ps[1], _MM_FROUND_TO_NEAREST_INT), 1);
}
inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  return emulated::halves_si([&](int i) {
    return _mm256_cvtepu16_epi32(i == 0 ? _mm256_castsi256_si128(a) : _mm256_extracti128_si256(a, 1));
  });
}
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  const emulated::Vector x = emulated::of(a);
  emulated::Vector r;
  for (int i = 0; i < 16; ++i) r.i16[i] = static_cast<int16_t>(x.i32[i]);
  return r.half_si[0];
}
inline __m256bh _mm512_cvtneps_pbh(__m512 a) {
  const emulated::Vector x = emulated::of(a);
  emulated::Vector r;
  for (int i = 0; i < 16; ++i) r.u16[i] = emulated::bf16_of(x.f32[i]);
  return reinterpret_cast<__m256bh>(r.half_si[0]);
}
// `low` fills the lower half.
inline __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  emulated::Vector r;
  r.half_si[0] = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(low));
  r.half_si[1] = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(high));
  return reinterpret_cast<__m512bh>(r.si);
}

// --- masks
// -----------------------------------------------------------------------------------------------------------

inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return static_cast<__mmask16>(emulated::mask_of<16>([&](int i) {
    const bool ordered = !std::isnan(x.f32[i]) && !std::isnan(y.f32[i]);
    switch (predicate) {
      case _CMP_LT_OQ:
        return x.f32[i] < y.f32[i];
      case _CMP_ORD_Q:
        return ordered;
      case _CMP_UNORD_Q:
        return !ordered;
      default:
        __builtin_trap();
    }
  }));
}
inline __mmask16 _mm512_cmplt_epi32_mask(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return static_cast<__mmask16>(emulated::mask_of<16>([&](int i) { return x.i32[i] < y.i32[i]; }));
}
inline __mmask16 _mm512_cmple_epi32_mask(__m512i a, __m512i b) {
  return static_cast<__mmask16>(~_mm512_cmplt_epi32_mask(b, a));
}
inline __mmask16 _mm512_test_epi32_mask(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a & b);
  return static_cast<__mmask16>(emulated::mask_of<16>([&](int i) { return x.i32[i] != 0; }));
}
inline __mmask32 _mm512_cmpeq_epi16_mask(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return static_cast<__mmask32>(emulated::mask_of<32>([&](int i) { return x.i16[i] == y.i16[i]; }));
}
inline __mmask32 _mm512_cmpneq_epi16_mask(__m512i a, __m512i b) { return ~_mm512_cmpeq_epi16_mask(a, b); }
inline __mmask64 _mm512_cmpeq_epi8_mask(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::mask_of<64>([&](int i) { return x.i8[i] == y.i8[i]; });
}
inline __mmask64 _mm512_cmplt_epu8_mask(__m512i a, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  return emulated::mask_of<64>([&](int i) { return x.u8[i] < y.u8[i]; });
}
inline __mmask64 _mm512_movepi8_mask(__m512i a) {
  const emulated::Vector x = emulated::of(a);
  return emulated::mask_of<64>([&](int i) { return x.i8[i] < 0; });
}

inline __m512i _mm512_mask_blend_epi16(__mmask32 mask, __m512i a, __m512i b) {
  emulated::Vector r = emulated::of(a);
  const emulated::Vector y = emulated::of(b);
  emulated::fill(r.i16, mask, [&](int i) { return y.i16[i]; });
  return r.si;
}
inline __m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
  emulated::Vector r = emulated::of(a);
  const emulated::Vector y = emulated::of(b);
  emulated::fill(r.i32, mask, [&](int i) { return y.i32[i]; });
  return r.si;
}
inline __m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_mask_blend_epi32(mask, _mm512_castps_si512(a), _mm512_castps_si512(b)));
}
inline __m512i _mm512_maskz_mov_epi16(__mmask32 mask, __m512i a) {
  return _mm512_mask_blend_epi16(mask, _mm512_setzero_si512(), a);
}

// --- permutations
// ----------------------------------------------------------------------------------------------------

#define PYLLM_EMULATED_UNPACK(name, half)                                                         \
  inline __m512i _mm512_##name(__m512i a, __m512i b) {                                            \
    const emulated::Vector x = emulated::of(a), y = emulated::of(b);                              \
    return emulated::halves_si([&](int i) { return _mm256_##half(x.half_si[i], y.half_si[i]); }); \
  }
PYLLM_EMULATED_UNPACK(unpacklo_epi16, unpacklo_epi16)
PYLLM_EMULATED_UNPACK(unpackhi_epi16, unpackhi_epi16)
PYLLM_EMULATED_UNPACK(unpacklo_epi32, unpacklo_epi32)
PYLLM_EMULATED_UNPACK(unpackhi_epi32, unpackhi_epi32)
PYLLM_EMULATED_UNPACK(unpacklo_epi64, unpacklo_epi64)
PYLLM_EMULATED_UNPACK(unpackhi_epi64, unpackhi_epi64)
#undef PYLLM_EMULATED_UNPACK

inline __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_unpacklo_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
inline __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_unpackhi_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
inline __m512d _mm512_unpacklo_pd(__m512d a, __m512d b) {
  return emulated::of(_mm512_unpacklo_epi64(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b))).pd;
}
inline __m512d _mm512_unpackhi_pd(__m512d a, __m512d b) {
  return emulated::of(_mm512_unpackhi_epi64(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b))).pd;
}

inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b);
  emulated::Vector r;
  for (int i = 0; i < 16; ++i) {
    const int quarter = order >> i / 4 * 2 & 3;
    r.f32[i] = (i < 8 ? x : y).f32[quarter * 4 + i % 4];
  }
  return r.ps;
}
inline __m512i _mm512_permutexvar_epi64(__m512i order, __m512i a) {
  const emulated::Vector x = emulated::of(a), at = emulated::of(order);
  emulated::Vector r;
  for (int i = 0; i < 8; ++i) r.i64[i] = x.i64[at.i64[i] & 7];
  return r.si;
}
inline __m512i _mm512_permutexvar_epi16(__m512i order, __m512i a) {
  const emulated::Vector x = emulated::of(a), at = emulated::of(order);
  emulated::Vector r;
  for (int i = 0; i < 32; ++i) r.i16[i] = x.i16[at.i16[i] & 31];
  return r.si;
}
inline __m512i _mm512_permutex2var_epi64(__m512i a, __m512i order, __m512i b) {
  const emulated::Vector x = emulated::of(a), y = emulated::of(b), at = emulated::of(order);
  emulated::Vector r;
  for (int i = 0; i < 8; ++i) r.i64[i] = (at.i64[i] & 8 ? y : x).i64[at.i64[i] & 7];
  return r.si;
}

inline __m512i _mm512_inserti32x4(__m512i a, __m128i b, int quarter) {
  emulated::Vector r = emulated::of(a);
  std::memcpy(r.i32 + 4 * quarter, &b, sizeof b);
  return r.si;
}
inline __m512 _mm512_insertf32x4(__m512 a, __m128 b, int quarter) {
  return _mm512_castsi512_ps(_mm512_inserti32x4(_mm512_castps_si512(a), _mm_castps_si128(b), quarter));
}
inline __m512i _mm512_inserti64x4(__m512i a, __m256i b, int half) {
  emulated::Vector r = emulated::of(a);
  r.half_si[half] = b;
  return r.si;
}
inline __m256d _mm512_extractf64x4_pd(__m512d a, int half) {
  return _mm256_castps_pd(emulated::of(_mm512_castpd_ps(a)).half_ps[half]);
}

}  // namespace
}  // namespace pyllm
