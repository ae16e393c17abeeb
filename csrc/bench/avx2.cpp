// AVX-VNNI: 32 products of bytes, added in fours, per 256-bit instruction. In assembly, because the level's
// flags do not have it; runs where probed.
#include <immintrin.h>

#include "bench/peaks.h"
#include "bench/register_loop.h"

namespace pyllm::peaks {
namespace {

void dot_bytes(int64_t rounds) {
  const __m256i three = _mm256_set1_epi8(3);
  run_chains(rounds, three, [&](__m256i& x) { asm("%{vex%} vpdpbusd %1, %1, %0" : "+x"(x) : "x"(three)); });
}

}  // namespace

extern const Loop avx_vnni_loop;
const Loop avx_vnni_loop = {"vnni_int8", int64_t{2} * kChains * 32, dot_bytes};

}  // namespace pyllm::peaks
