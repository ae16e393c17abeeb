// Pairs of panels of bf16 multiplied by VDPBF16PS, both packed as pairs of k's (core/tile_pack.h), in tiles
// of 8 rows x 2 vectors of sums. Included by avx512_bf16*.cpp.
#pragma once

#include "core/dot_bf16.h"
#include "core/tile_pack.h"
#include "core/vec.h"

namespace pyllm {
namespace {

constexpr int kTileRowsAtOnce = 8;

// Rows of a tile of A, from the one whose pairs begin at `a` on, times a panel of B.
template <int Rows>
void dot_rows(const char* a, const TileSource& a_tiles, const Pair& pair, float* sums, bool wide) {
  Vec chain[Rows][2] = {};
  for (int64_t step = 0; step < pair.steps; ++step) {
    const char* left = a + step * a_tiles.step;
    const char* right = pair.b.at + step * pair.b.step;
    for (int64_t line = 0; line < kTileRows; ++line, left += kLineBytes, right += kLineBytes) {
      const __m512i b0 = _mm512_load_si512(right), b1 = _mm512_load_si512(right + pair.b.tile);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m512i x = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(left + 4 * r));
        chain[r][0] = dot_bf16_pairs(chain[r][0], x, b0);
        chain[r][1] = dot_bf16_pairs(chain[r][1], x, b1);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < (wide ? 2 : 1); ++v) {
      float* to = sums + v * kTileSums + r * kTileRows;
      store(to, pair.first ? chain[r][v] : load(to) + chain[r][v]);
    }
  }
}

// `rows` rows: the largest tile that fits, then the next smaller.
template <int Rows = kTileRowsAtOnce>
void dot_tile(const char* a, int64_t rows, const Pair& pair, float* sums, bool wide) {
  for (; rows >= Rows; rows -= Rows, a += 4 * Rows, sums += Rows * kTileRows) {
    dot_rows<Rows>(a, pair.a, pair, sums, wide);
  }
  if constexpr (Rows > 1) {
    if (rows) dot_tile<Rows / 2>(a, rows, pair, sums, wide);
  }
}

// Adds one chunk to the sums of one pair of panels.
[[maybe_unused]] inline void dot_panels(const Pair& pair) {
  const bool wide = pair.b_rows > kTileRows;
  const int64_t b_tiles = ceil_div(pair.b_rows, kTileRows);
  for (int64_t tile = 0; tile * kTileRows < pair.a_rows; ++tile) {
    dot_tile(pair.a.at + tile * pair.a.tile, smaller(kTileRows, pair.a_rows - tile * kTileRows), pair,
             pair.sums + tile * b_tiles * kTileSums, wide);
  }
}

}  // namespace
}  // namespace pyllm
