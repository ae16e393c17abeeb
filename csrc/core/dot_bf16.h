// VDPBF16PS, the product of pairs of bf16 of AVX512-BF16 (Cooper Lake, Zen 4, Sapphire Rapids and later),
// which the avx512 level has where its processor does.
//
// With PYLLM_SOFTWARE_TILES it is two fused multiply-adds, the odd element first, as Intel's manual describes
// it. Loops and packing can so be tested anywhere; that a processor rounds like this cannot.
#pragma once

#include <immintrin.h>

namespace pyllm {
namespace {

// Per lane: sum + a.odd * b.odd + a.even * b.even.
inline __m512 dot_bf16_pairs(__m512 sum, __m512i a, __m512i b) {
#if defined(PYLLM_SOFTWARE_TILES)
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, odd)),
                        _mm512_castsi512_ps(_mm512_and_si512(b, odd)), sum);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                         _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), sum);
#else
  // In assembly: the level's flags lack the extension, and GCC 12 copies the intrinsic's accumulators.
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
#endif
}

}  // namespace
}  // namespace pyllm
