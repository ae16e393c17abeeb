// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// 2011). A draw is a pure function of (seed, stream, index), so neither thread count nor neighbouring rows
// change it. All is constexpr so that CUDA kernels can call it.
#pragma once

#include <array>
#include <cstdint>

namespace pyllm {
namespace {

using PhiloxBlock = std::array<uint32_t, 4>;

constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

[[maybe_unused]] constexpr PhiloxBlock philox_round(const PhiloxBlock& c, uint32_t k0, uint32_t k1) {
  const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
  const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
  return {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
}

[[maybe_unused]] constexpr PhiloxBlock philox(uint64_t seed, uint64_t stream, uint64_t index) {
  PhiloxBlock c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                   static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    c = philox_round(c, k0, k1);
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return c;
}

// Uniform in [0, 1) with 24 bits, exact in float.
[[maybe_unused]] constexpr float uniform01(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace
}  // namespace pyllm
