// The loop of peaks.h over any register type. Included by the files of one level.
#pragma once

#include <cstdint>

namespace pyllm::peaks {
namespace {

constexpr int kChains = 12;

// step(chain) on twelve chains, `rounds` times.
template <class Register, class Step>
inline __attribute__((always_inline)) void run_chains(int64_t rounds, Register start, const Step& step) {
  Register chain[kChains];
  for (Register& x : chain) x = start;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (Register& x : chain) step(x);
  }
  // A copy, so that only it, and not the chains, must have an address.
  Register kept[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) kept[c] = chain[c];
  asm volatile("" : : "m"(kept));
}

}  // namespace
}  // namespace pyllm::peaks
