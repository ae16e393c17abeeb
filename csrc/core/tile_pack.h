// bf16 operands cut into tiles of 16 rows x 32 k's = 1 KB, in one of two forms, and pairs of panels of such
// tiles, which is what the kernels of core/amx_multiply.h and core/dot_bf16_panels.h multiply. Included by
// amx*.cpp and avx512_bf16*.cpp.
//
//   form                              k contiguous              rows contiguous
//   rows   16 lines, one per row      copy                      interleave, then transpose 32-bit words
//   pairs  16 lines, one per two k's  transpose 32-bit words    interleave two k's
//
// AMX reads its operand A as rows and B as pairs; VDPBF16PS wants pairs of both, one broadcast.
//
// Work per tile (512 elements), in shuffles and in cycles when the source is in the second-level cache: copy
// none, about 16; interleave 16, about 16; transpose 32 shuffles and 48 inserting loads, about 40. The
// product itself spends 16 cycles per tile and 16 rows of the other operand.
//
// Packed tiles lie in panels: all steps of 32 k's of a few row groups, so that the product reads straight
// through.
//
//   panel 0: (step 0: tile of rows 0-15, tile of rows 16-31) (step 1: ...) ...   panel 1: ...
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/dtype.h"

namespace pyllm {
namespace {

constexpr int64_t kTileRows = 16;   // lines of a tile
constexpr int64_t kTileDepth = 32;  // k's of a tile
constexpr int64_t kLineBytes = 64;
constexpr int64_t kTileBytes = kTileRows * kLineBytes;
constexpr int64_t kTileFloats = kTileBytes / int64_t{sizeof(float)};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

enum class Form { rows, pairs };

// One operand: `rows` vectors of `depth` k's. Strides in elements, never negative.
struct Side {
  const void* data;
  int64_t stride, stride_k;
  int64_t rows, depth;

  const bfloat16* at(int64_t row, int64_t k) const {
    return static_cast<const bfloat16*>(data) + row * stride + k * stride_k;
  }
  bool k_contiguous() const { return stride_k == 1; }
  bool rows_contiguous() const { return stride == 1 && stride_k != 1; }
  int64_t steps() const { return ceil_div(depth, kTileDepth); }
};

// Transposes 16 x 16 words of 32 bits. Groups of four rows are brought into the four 128-bit lanes by the
// loads, which leaves a four by four transposition inside the lanes: half the shuffles of one in registers
// alone.
[[maybe_unused]] inline void transpose_words(const void* from, int64_t stride_bytes, void* to) {
  const char* source = static_cast<const char*>(from);
  const auto word4 = [&](int64_t row, int64_t quarter) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + row * stride_bytes + quarter * 16));
  };
#pragma GCC unroll 4
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    __m512i rows[4];  // lane n of rows[i]: row 4n + i
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) {
      rows[i] = _mm512_castsi128_si512(word4(i, quarter));
      rows[i] = _mm512_inserti32x4(rows[i], word4(4 + i, quarter), 1);
      rows[i] = _mm512_inserti32x4(rows[i], word4(8 + i, quarter), 2);
      rows[i] = _mm512_inserti32x4(rows[i], word4(12 + i, quarter), 3);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
    const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
    const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
    __m512i* out = static_cast<__m512i*>(to) + 4 * quarter;
    _mm512_store_si512(out, _mm512_unpacklo_epi64(low01, low23));
    _mm512_store_si512(out + 1, _mm512_unpackhi_epi64(low01, low23));
    _mm512_store_si512(out + 2, _mm512_unpacklo_epi64(high01, high23));
    _mm512_store_si512(out + 3, _mm512_unpackhi_epi64(high01, high23));
  }
}

// Rows, zero beyond the operand. `rows` and `depth` are what the operand has left at (row, k), perhaps less
// than nothing.
inline void copy_tile(const Side& side, int64_t row, int64_t k, int64_t rows, int64_t depth, void* to) {
  __m512i* out = static_cast<__m512i*>(to);
  const __mmask32 mask = depth < kTileDepth ? (__mmask32{1} << (depth > 0 ? depth : 0)) - 1 : ~__mmask32{0};
  for (int64_t i = 0; i < kTileRows; ++i) {
    if (i < rows && side.k_contiguous()) {
      _mm512_store_si512(out + i, _mm512_maskz_loadu_epi16(mask, side.at(row + i, k)));
    } else {
      alignas(64) bfloat16 line[kTileDepth] = {};
      for (int64_t j = 0; i < rows && j < smaller(depth, kTileDepth); ++j) line[j] = *side.at(row + i, k + j);
      _mm512_store_si512(out + i, _mm512_load_si512(line));
    }
  }
}

// Pairs of two tiles of an operand whose rows are contiguous, zero beyond it: line p holds (k = 2p, row 0)
// (2p + 1, 0) (2p, 1) ... Whole cache lines are read: where rows of memory are 4 KB apart, a second visit
// would find them gone from the first-level cache.
inline void interleave_tiles(const Side& side, int64_t row, int64_t k, void* first, void* second) {
  const int64_t rows = side.rows - row, depth = side.depth - k;
  const __mmask32 mask = rows < 2 * kTileRows ? (__mmask32{1} << rows) - 1 : ~__mmask32{0};
  // Quarters 0 1 2 3 of a tile go to the low halves of the 128-bit lanes, which unpacking takes from.
  const __m512i lanes = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const auto line = [&](int64_t j) {
    if (j >= depth) return _mm512_setzero_si512();
    return _mm512_permutexvar_epi64(lanes, _mm512_maskz_loadu_epi16(mask, side.at(row, k + j)));
  };
  for (int64_t p = 0; p < kTileRows; ++p) {
    const __m512i even = line(2 * p), odd = line(2 * p + 1);
    _mm512_store_si512(static_cast<__m512i*>(first) + p, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(static_cast<__m512i*>(second) + p, _mm512_unpackhi_epi16(even, odd));
  }
}

// Two tiles at (row, k) of an operand whose rows are contiguous.
inline void pack_tile_pair(const Side& side, Form form, int64_t row, int64_t k, void* first, void* second) {
  if (form == Form::pairs) return interleave_tiles(side, row, k, first, second);
  alignas(64) char pairs[2][kTileBytes];
  interleave_tiles(side, row, k, pairs[0], pairs[1]);
  transpose_words(pairs[0], kLineBytes, first);
  transpose_words(pairs[1], kLineBytes, second);
}

// The tile at (row, k) of any other operand.
inline void pack_tile(const Side& side, Form form, int64_t row, int64_t k, void* to) {
  const int64_t rows = side.rows - row, depth = side.depth - k;
  if (form == Form::rows) return copy_tile(side, row, k, rows, depth, to);
  if (rows >= kTileRows && depth >= kTileDepth && side.k_contiguous()) {
    return transpose_words(side.at(row, k), side.stride * int64_t{sizeof(bfloat16)}, to);
  }
  alignas(64) char lines[kTileBytes];
  copy_tile(side, row, k, rows, depth, lines);
  transpose_words(lines, kLineBytes, to);
}

// Panels of `tiles` row groups, `steps` steps each, from `at` on.
struct Panels {
  char* at;
  int64_t tiles, steps;

  int64_t step_bytes() const { return tiles * kTileBytes; }
  int64_t panel_bytes() const { return steps * step_bytes(); }
  int64_t panel_rows() const { return tiles * kTileRows; }
  char* tile(int64_t panel, int64_t step, int64_t tile) const {
    return at + panel * panel_bytes() + step * step_bytes() + tile * kTileBytes;
  }
};

// Where the tiles of one operand lie: tile t of step s begins at `at` + s * step + t * tile, and its rows are
// `row` bytes apart.
struct TileSource {
  const char* at;
  int64_t step, tile, row;

  TileSource from(int64_t steps) const { return {at + steps * step, step, tile, row}; }
};

inline TileSource source_of(const Panels& panels, int64_t panel, int64_t step) {
  return {panels.tile(panel, step, 0), panels.step_bytes(), kTileBytes, kLineBytes};
}

// What to pack: rows from `row` on, up to `end_row`, steps [step, end_step) of 32 k's.
struct Window {
  int64_t row, end_row, step, end_step;
};

// Packs a window; its first row and step become panel 0, step 0. Rows beyond the window's end fill no tile.
// Contiguous k's are read panel by panel; contiguous rows step by step across the panels, because each of the
// 32 k's of a step may lie in a page of its own.
[[maybe_unused]] inline void pack_window(const Side& side, Form form, const Window& window,
                                         const Panels& panels) {
  const bool in_pairs = side.rows_contiguous();
  alignas(64) char unused[kTileBytes];
  const auto pack_step = [&](int64_t panel, int64_t step) {
    for (int64_t t = 0; t < panels.tiles; t += in_pairs ? 2 : 1) {
      const int64_t row = window.row + panel * panels.panel_rows() + t * kTileRows, k = step * kTileDepth;
      if (row >= window.end_row) break;
      char* to = panels.tile(panel, step - window.step, t);
      if (in_pairs) {
        const bool two = t + 1 < panels.tiles && row + kTileRows < window.end_row;
        pack_tile_pair(side, form, row, k, to, two ? to + kTileBytes : unused);
      } else {
        pack_tile(side, form, row, k, to);
      }
    }
  };
  const int64_t count = ceil_div(window.end_row - window.row, panels.panel_rows());
  if (in_pairs) {
    for (int64_t step = window.step; step < window.end_step; ++step) {
      for (int64_t panel = 0; panel < count; ++panel) pack_step(panel, step);
    }
  } else {
    for (int64_t panel = 0; panel < count; ++panel) {
      for (int64_t step = window.step; step < window.end_step; ++step) pack_step(panel, step);
    }
  }
}

// A panel of a pair is up to two tiles of rows; their sums are tiles of 16 x 16 floats.
constexpr int64_t kPanelTiles = 2;
constexpr int64_t kPanelRows = kPanelTiles * kTileRows;
constexpr int64_t kTileSums = kTileRows * kTileRows;
constexpr int64_t kPairSums = kPanelTiles * kPanelTiles * kTileSums;

// One pair of panels and one chunk of k's. Rows are those of the operands, the last panel may have fewer than
// 32.
struct Pair {
  TileSource a, b;
  int64_t a_rows, b_rows, steps;
  float* sums;  // ceil(a_rows / 16) x ceil(b_rows / 16) tiles
  bool first;   // nothing has been summed yet
};

}  // namespace
}  // namespace pyllm
