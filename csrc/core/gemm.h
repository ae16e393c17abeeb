// A block matrix product in registers: C (+)= A B, all in float, one thread. Callers cut the problem and own
// the threads.
//
//          N, panels of kPanel columns            B is packed: panel p holds K rows of kPanel floats, so that
//          the
//        +-------+-------+--- .. ---+             inner loop reads it straight through.
//      K |panel 0|panel 1|          |
//        +-------+-------+--- .. ---+             Registers: kRows x kPanelVecs accumulators, one row of the
//        panel,
//   A    +-------+                                one broadcast element of A.
//  M x K | kRows x kPanel tile of C
//
// Every element of C is one chain of fused multiply-adds over ascending k, whatever M, N and the tile it
// falls into: a row's bits do not depend on the other rows.
#pragma once

#include "core/vec.h"

namespace pyllm {
namespace {

constexpr int kPanelVecs = 2;
constexpr int kPanel = kPanelVecs * kLanes;
constexpr int kRows = kVectorRegisters == 32 ? 12 : 6;

constexpr int64_t panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

// Floats needed to pack a K x N matrix.
constexpr int64_t packed_size(int64_t k, int64_t n) { return panels(n) * kPanel * k; }

// Packs element (k, n) = b[k * stride_k + n * stride_n]; columns past N are zero.
template <class T>
[[maybe_unused]] void pack_panels(const T* b, int64_t stride_k, int64_t stride_n, int64_t k_count,
                                  int64_t n_count, float* packed) {
  for (int64_t n0 = 0; n0 < n_count; n0 += kPanel) {
    const int64_t columns = n_count - n0 < kPanel ? n_count - n0 : kPanel;
    float* panel = packed + n0 * k_count;
    if (stride_n == 1) {
      for (int64_t k = 0; k < k_count; ++k) {
        to_float(b + k * stride_k + n0, panel + k * kPanel, columns);
        for (int64_t n = columns; n < kPanel; ++n) panel[k * kPanel + n] = 0.0f;
      }
      continue;
    }
    // Transposing: a block of k at a time keeps the panel rows being written in the first-level cache.
    constexpr int64_t kBlock = 64;
    float line[kBlock];
    for (int64_t k0 = 0; k0 < k_count; k0 += kBlock) {
      const int64_t depth = k_count - k0 < kBlock ? k_count - k0 : kBlock;
      for (int64_t n = 0; n < kPanel; ++n) {
        const T* source = b + (n0 + n) * stride_n + k0 * stride_k;
        if (n >= columns) {
          for (int64_t k = 0; k < depth; ++k) line[k] = 0.0f;
        } else if (stride_k == 1) {
          to_float(source, line, depth);
        } else {
          for (int64_t k = 0; k < depth; ++k) line[k] = to_accumulator(source[k * stride_k]);
        }
        for (int64_t k = 0; k < depth; ++k) panel[(k0 + k) * kPanel + n] = line[k];
      }
    }
  }
}

// One tile: Rows x kPanel of C. `columns` < kPanel cuts the store at the right edge.
template <int Rows>
[[maybe_unused]] void gemm_tile(const float* a, int64_t lda, const float* panel, float* c, int64_t ldc,
                                int64_t depth, int64_t columns, bool accumulate) {
  Vec acc[Rows][kPanelVecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t lanes = columns - v * kLanes;
      const float* from = c + r * ldc + v * kLanes;
      acc[r][v] = !accumulate || lanes <= 0 ? zero()
                  : lanes >= kLanes         ? load(from)
                                            : load_partial(from, lanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = load(panel + k * kPanel), b1 = load(panel + k * kPanel + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec x = set1(a[r * lda + k]);
      acc[r][0] = fma(x, b0, acc[r][0]);
      acc[r][1] = fma(x, b1, acc[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t lanes = columns - v * kLanes;
      if (lanes > 0) store_lanes(c + r * ldc + v * kLanes, acc[r][v], lanes < kLanes ? lanes : kLanes);
    }
  }
}

template <int Rows>
[[maybe_unused]] void gemm_rows(const float* a, int64_t lda, const float* packed, float* c, int64_t ldc,
                                int64_t depth, int64_t n_count, bool accumulate) {
  for (int64_t n0 = 0; n0 < n_count; n0 += kPanel) {
    const int64_t columns = n_count - n0 < kPanel ? n_count - n0 : kPanel;
    gemm_tile<Rows>(a, lda, packed + n0 * depth, c + n0, ldc, depth, columns, accumulate);
  }
}

// Rows left over at the bottom: the largest tile that fits, then the next.
template <int Rows>
[[maybe_unused]] void gemm_tail(const float* a, int64_t lda, const float* packed, float* c, int64_t ldc,
                                int64_t rows, int64_t depth, int64_t n_count, bool accumulate) {
  if constexpr (Rows > 0) {
    if (rows >= Rows) {
      gemm_rows<Rows>(a, lda, packed, c, ldc, depth, n_count, accumulate);
      a += Rows * lda;
      c += Rows * ldc;
      rows -= Rows;
    }
    gemm_tail<Rows / 2>(a, lda, packed, c, ldc, rows, depth, n_count, accumulate);
  }
}

// C (M x N, row stride ldc) = (accumulate ? C : 0) + A (M x K, row stride lda) * packed B.
[[maybe_unused]] inline void gemm(const float* a, int64_t lda, const float* packed, float* c, int64_t ldc,
                                  int64_t m, int64_t n, int64_t k, bool accumulate) {
  // A tile row of A stays in the first-level cache while the panels stream past it from the second.
  int64_t row = 0;
  for (; row + kRows <= m; row += kRows) {
    gemm_rows<kRows>(a + row * lda, lda, packed, c + row * ldc, ldc, k, n, accumulate);
  }
  // Left-over rows number less than kRows: 8 + 4 + 2 + 1 covers 11, as does 4 + 2 + 1 for 5.
  constexpr int kLargestTail = kRows > 8 ? 8 : 4;
  gemm_tail<kLargestTail>(a + row * lda, lda, packed, c + row * ldc, ldc, m - row, k, n, accumulate);
}

}  // namespace
}  // namespace pyllm
