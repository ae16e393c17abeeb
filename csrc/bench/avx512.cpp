// AVX512-VNNI: 64 products of bytes, added in fours, per instruction. AVX512-BF16: 32 products of bfloat16,
// added in pairs. In assembly, because the level's flags have neither, and because GCC 12 moves the
// intrinsics' accumulators from register to register; each runs where probed. An emulated level has no rate.
#if !defined(PYLLM_SOFTWARE_AVX512)
#include <immintrin.h>

#include "bench/peaks.h"
#include "bench/register_loop.h"

namespace pyllm::peaks {
namespace {

void dot_bytes(int64_t rounds) {
  const __m512i three = _mm512_set1_epi8(3);
  run_chains(rounds, three, [&](__m512i& x) { asm("vpdpbusd %1, %1, %0" : "+v"(x) : "v"(three)); });
}

void dot_bf16(int64_t rounds) {
  const __m512i ones = _mm512_set1_epi16(0x3f80);
  run_chains(rounds, _mm512_set1_ps(1.0f), [&](__m512& x) {
    asm("vdpbf16ps %1, %1, %0" : "+v"(x) : "v"(ones));
  });
}

}  // namespace

extern const Loop avx512_vnni_loop, avx512_bf16_loop;
const Loop avx512_vnni_loop = {"vnni_int8", int64_t{2} * kChains * 64, dot_bytes};
const Loop avx512_bf16_loop = {"dot_bf16", int64_t{2} * kChains * 32, dot_bf16};

}  // namespace pyllm::peaks
#endif
