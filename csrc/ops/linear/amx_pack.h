// Operands of the product in the two forms that tiles read (core/amx_tiles.h), 16 rows x 32 k's = 1 KB each.
// Included by amx.cpp.
//
//                     k contiguous                          rows contiguous
//   A  row after row  copy                                  interleave, then transpose 32-bit words
//   B  pairs of k     transpose 32-bit words (pairs)        interleave two k's
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

#include "core/amx_tiles.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kTileBytes = kAmxRows * kAmxRowBytes;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

enum class Role { a, b };

// One operand: `rows` vectors of `depth` k's.
struct Side {
  Operand operand;
  int64_t rows, depth;

  const bfloat16* at(int64_t row, int64_t k) const {
    return static_cast<const bfloat16*>(operand.data) + row * operand.stride + k * operand.stride_k;
  }
  bool k_contiguous() const { return operand.stride_k == 1; }
  bool rows_contiguous() const { return operand.stride == 1 && operand.stride_k != 1; }
  int64_t steps() const { return ceil_div(depth, kAmxDepth); }
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

// A form, zero beyond the operand. `rows` and `depth` are what the operand has left at (row, k).
inline void copy_tile(const Side& side, int64_t row, int64_t k, int64_t rows, int64_t depth, void* to) {
  __m512i* out = static_cast<__m512i*>(to);
  const __mmask32 mask = depth < kAmxDepth ? (__mmask32{1} << depth) - 1 : ~__mmask32{0};
  for (int64_t i = 0; i < kAmxRows; ++i) {
    if (i < rows && side.k_contiguous()) {
      _mm512_store_si512(out + i, _mm512_maskz_loadu_epi16(mask, side.at(row + i, k)));
    } else {
      alignas(64) bfloat16 line[kAmxDepth] = {};
      for (int64_t j = 0; i < rows && j < smaller(depth, kAmxDepth); ++j) line[j] = *side.at(row + i, k + j);
      _mm512_store_si512(out + i, _mm512_load_si512(line));
    }
  }
}

// B form of an operand whose rows are contiguous, zero beyond it: line p holds (k = 2p, row 0) (2p + 1, 0)
// (2p, 1) ...
inline void interleave_tile(const Side& side, int64_t row, int64_t k, int64_t rows, int64_t depth, void* to) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  const __mmask16 mask = rows < kAmxRows ? static_cast<__mmask16>((1u << rows) - 1) : 0xffff;
  const auto line = [&](int64_t j) {
    return j < depth ? _mm256_maskz_loadu_epi16(mask, side.at(row, k + j)) : _mm256_setzero_si256();
  };
  __m512i* out = static_cast<__m512i*>(to);
  for (int64_t p = 0; p < kAmxRows; ++p) {
    const __m512i pair = _mm512_inserti64x4(_mm512_castsi256_si512(line(2 * p)), line(2 * p + 1), 1);
    _mm512_store_si512(out + p, _mm512_permutexvar_epi16(order, pair));
  }
}

// The tile at (row, k) in the form of its role.
inline void pack_tile(const Side& side, Role role, int64_t row, int64_t k, void* to) {
  const int64_t rows = side.rows - row, depth = side.depth - k;
  const bool whole = rows >= kAmxRows && depth >= kAmxDepth;
  alignas(64) char other[kTileBytes];
  if (side.rows_contiguous()) {
    interleave_tile(side, row, k, rows, depth, role == Role::b ? to : other);
    if (role == Role::a) transpose_words(other, kAmxRowBytes, to);
  } else if (role == Role::a) {
    copy_tile(side, row, k, rows, depth, to);
  } else if (whole && side.k_contiguous()) {
    transpose_words(side.at(row, k), side.operand.stride * int64_t{sizeof(bfloat16)}, to);
  } else {
    copy_tile(side, row, k, rows, depth, other);
    transpose_words(other, kAmxRowBytes, to);
  }
}

// Panels of `tiles` row groups, `steps` steps each, from `at` on.
struct Panels {
  char* at;
  int64_t tiles, steps;

  int64_t step_bytes() const { return tiles * kTileBytes; }
  int64_t panel_bytes() const { return steps * step_bytes(); }
  int64_t panel_rows() const { return tiles * kAmxRows; }
  char* tile(int64_t panel, int64_t step, int64_t tile) const {
    return at + panel * panel_bytes() + step * step_bytes() + tile * kTileBytes;
  }
};

// What to pack: rows from `row` on, up to `end_row`, steps [step, end_step) of 32 k's.
struct Window {
  int64_t row, end_row, step, end_step;
};

// Packs a window; its first row and step become panel 0, step 0. Rows beyond the window's end fill no tile.
// Contiguous k's are read panel by panel; contiguous rows step by step across the panels, because each of the
// 32 k's of a step may lie in a page of its own.
[[maybe_unused]] inline void pack_window(const Side& side, Role role, const Window& window,
                                         const Panels& panels) {
  const auto pack_step = [&](int64_t panel, int64_t step) {
    for (int64_t t = 0; t < panels.tiles; ++t) {
      const int64_t row = window.row + panel * panels.panel_rows() + t * kAmxRows;
      if (row < window.end_row) {
        pack_tile(side, role, row, step * kAmxDepth, panels.tile(panel, step - window.step, t));
      }
    }
  };
  const int64_t count = ceil_div(window.end_row - window.row, panels.panel_rows());
  if (side.rows_contiguous()) {
    for (int64_t step = window.step; step < window.end_step; ++step) {
      for (int64_t panel = 0; panel < count; ++panel) pack_step(panel, step);
    }
  } else {
    for (int64_t panel = 0; panel < count; ++panel) {
      for (int64_t step = window.step; step < window.end_step; ++step) pack_step(panel, step);
    }
  }
}

}  // namespace
}  // namespace pyllm::linear
