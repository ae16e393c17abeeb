// A block of C in tile registers: up to four tiles of sums, for A tiles x B tiles. Included by amx*.cpp.
//
//              B0      B1            tmm0-3   sums, tile (i, j) in tmm[i * BTiles + j]
//            +-------+-------+       tmm4..   A, one register per tile
//         A0 | tmm0  | tmm1  |       ..tmm7   B, the rest in turn
//            +-------+-------+
//         A1 | tmm2  | tmm3  |
//            +-------+-------+
//
// Cycles per step of 32 k's (a product 16, a load from the first-level cache 8, side by side):
//
//   tiles   products  loads   B/cycle  used for
//   2 x 2   64        32      64       both operands packed
//   2 x 1   32        24      96       up to 16 resident rows: two chains, as one product takes 52 cycles
//   1 x 3   48        32      85       up to 48 resident rows, the streamed operand is read only once
//   1 x 4   64        40      80       up to 64
#pragma once

#include <utility>

#include "core/amx_tiles.h"
#include "core/tile_pack.h"

namespace pyllm {
namespace {

static_assert(kTileRows == kAmxRows && kTileDepth == kAmxDepth && kLineBytes == kAmxRowBytes);

constexpr int64_t kStepsAhead = 3;  // steps between asking for a line of memory and its use

// f<0>(), f<1>(), ... f<Count - 1>()
template <int Count, class F>
inline __attribute__((always_inline)) void for_each_tile(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f.template operator()<I>(), ...);
  }(std::make_integer_sequence<int, Count>{});
}

template <int ATiles, int BTiles>
inline void zero_sums() {
  for_each_tile<ATiles * BTiles>([]<int C>() { zero_tile<C>(); });
}

template <int ATiles, int BTiles>
inline void load_sums(const float* sums) {
  for_each_tile<ATiles * BTiles>([&]<int C>() { load_tile<C>(sums + C * kAmxElements, kAmxRowBytes); });
}

template <int ATiles, int BTiles>
inline void store_sums(float* sums) {
  for_each_tile<ATiles * BTiles>([&]<int C>() { store_tile<C>(sums + C * kAmxElements, kAmxRowBytes); });
}

// Sums of one step. A tile of A is loaded when its row of sums begins, the tiles of B during the first row.
template <int ATiles, int BTiles, bool StreamA>
inline __attribute__((always_inline)) void multiply_step(const char* a, const TileSource& a_source,
                                                         const char* b, const TileSource& b_source) {
  static_assert(ATiles * BTiles <= 4 && (ATiles == 1 || ATiles == 2));
  constexpr int kFirstA = 4, kFirstB = kFirstA + ATiles, kBRegisters = 8 - kFirstB;
  for_each_tile<ATiles>([&]<int I>() {
    if constexpr (StreamA) {
      load_tile_once<kFirstA + I>(a + I * a_source.tile, a_source.row);
    } else {
      load_tile<kFirstA + I>(a + I * a_source.tile, a_source.row);
    }
    for_each_tile<BTiles>([&]<int J>() {
      constexpr int kB = kFirstB + J % kBRegisters;
      if constexpr (I == 0) load_tile<kB>(b + J * b_source.tile, b_source.row);
      dot_bf16_tiles<I * BTiles + J, kFirstA + I, kB>();
    });
  });
}

// sums += A B over `steps` steps.
template <int ATiles, int BTiles>
inline void multiply(const TileSource& a, const TileSource& b, int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    multiply_step<ATiles, BTiles, false>(a.at + s * a.step, a, b.at + s * b.step, b);
  }
}

// The same with A read in place, a single time, from memory: every row is a stream of its own, more than the
// hardware follows, so its lines are asked for kStepsAhead steps before; at the end of the rows those of
// `next`, where the following call begins.
template <int ATiles, int BTiles>
inline void multiply_streamed(const TileSource& a, const TileSource& b, int64_t steps, const char* next) {
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t soon = s + kStepsAhead;
    const char* line = soon < steps ? a.at + soon * a.step : next + smaller(soon - steps, steps - 1) * a.step;
    for (int64_t row = 0; row < ATiles * kAmxRows; ++row) __builtin_prefetch(line + row * a.row);
    multiply_step<ATiles, BTiles, true>(a.at + s * a.step, a, b.at + s * b.step, b);
  }
}

// Held while a thread multiplies.
struct AllTiles : TileScope {
  AllTiles() : TileScope(full_tiles()) {}
};

template <int ATiles, int BTiles>
void multiply_pair(const Pair& pair) {
  if (pair.first) {
    zero_sums<ATiles, BTiles>();
  } else {
    load_sums<ATiles, BTiles>(pair.sums);
  }
  multiply<ATiles, BTiles>(pair.a, pair.b, pair.steps);
  store_sums<ATiles, BTiles>(pair.sums);
}

// Adds one chunk to the sums of one pair of panels.
[[maybe_unused]] inline void multiply_panels(const Pair& pair) {
  const bool two_a = pair.a_rows > kTileRows, two_b = pair.b_rows > kTileRows;
  if (two_a && two_b) return multiply_pair<2, 2>(pair);
  if (two_a) return multiply_pair<2, 1>(pair);
  if (two_b) return multiply_pair<1, 2>(pair);
  multiply_pair<1, 1>(pair);
}

}  // namespace
}  // namespace pyllm
