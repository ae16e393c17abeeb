// The one product all AMX attention kernels are made of: two by two tiles of C, one step of 32 k at a time.
//
//                       B column 0 (tmm6)   B column 1 (tmm7)
//   A row 0 (tmm4)            tmm0                tmm1
//   A row 1 (tmm5)            tmm2                tmm3
//
// A step is four products of 16 cycles, 32768 multiply-adds, beside four tile loads of 8 cycles that run on
// the load ports: 64 cycles against 32, and four chains in flight hide the product's latency of 52 cycles.
// Narrower forms (one tile row or column) serve edges and decoding, which memory bounds.
#pragma once

#include "core/amx_tiles.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kStepBytes = kAmxDepth * 2;

template <int Tile>
[[maybe_unused]] inline void begin_sum(const float* c, int64_t stride, bool accumulate) {
  if (accumulate) {
    load_tile<Tile>(c, stride);
  } else {
    zero_tile<Tile>();
  }
}

[[maybe_unused]] inline const void* byte_offset(const void* p, int64_t bytes) {
  return static_cast<const char*>(p) + bytes;
}

// C (16 * Rows x 16 * Columns) = or += A B over steps [first, last) of 32 k. A is in rows: step s of tile row
// r begins at a + r * 16 * a_stride + s * 64 bytes. b(s, c) is the address of step s of tile column c, whose
// pairs of k lie b_stride apart. Strides count bytes.
template <int Rows, int Columns, class B>
[[maybe_unused]] inline void tile_product(const bfloat16* a, int64_t a_stride, const B& b, int64_t b_stride,
                                          int64_t first, int64_t last, float* c, int64_t c_stride,
                                          bool accumulate) {
  static_assert(Rows <= 2 && Columns <= 2);
  float* c_below = c + kAmxRows * c_stride / 4;
  begin_sum<0>(c, c_stride, accumulate);
  if constexpr (Columns == 2) begin_sum<1>(c + kAmxColumns, c_stride, accumulate);
  if constexpr (Rows == 2) begin_sum<2>(c_below, c_stride, accumulate);
  if constexpr (Rows == 2 && Columns == 2) begin_sum<3>(c_below + kAmxColumns, c_stride, accumulate);
  for (int64_t step = first; step < last; ++step) {
    load_tile<4>(byte_offset(a, step * kStepBytes), a_stride);
    load_tile<6>(b(step, 0), b_stride);
    dot_bf16_tiles<0, 4, 6>();
    if constexpr (Columns == 2) {
      load_tile<7>(b(step, 1), b_stride);
      dot_bf16_tiles<1, 4, 7>();
    }
    if constexpr (Rows == 2) {
      load_tile<5>(byte_offset(a, kAmxRows * a_stride + step * kStepBytes), a_stride);
      dot_bf16_tiles<2, 5, 6>();
    }
    if constexpr (Rows == 2 && Columns == 2) dot_bf16_tiles<3, 5, 7>();
  }
  store_tile<0>(c, c_stride);
  if constexpr (Columns == 2) store_tile<1>(c + kAmxColumns, c_stride);
  if constexpr (Rows == 2) store_tile<2>(c_below, c_stride);
  if constexpr (Rows == 2 && Columns == 2) store_tile<3>(c_below + kAmxColumns, c_stride);
}

}  // namespace
}  // namespace pyllm::attention
