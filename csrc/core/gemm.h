// A block matrix product in registers: C (+)= A B, all in float, one thread. Callers cut the problem and own
// the threads.
//
//          N, panels of kPanel columns            B is packed: panel p holds K rows of kPanel floats, so that
//        +-------+-------+--- .. ---+             the inner loop reads it straight through.
//      K |panel 0|panel 1|          |
//        +-------+-------+--- .. ---+             Registers: kRows x kPanelVecs accumulators, one row of the
//   A    +-------+                                panel, one broadcast element of A.
//  M x K | kRows x kPanel tile of C
//
// Every element of C is a sum over blocks of kDepth k's in ascending order, each block one chain of fused
// multiply-adds from zero over ascending k, whatever M, N and the tile it falls into: a row's bits do not
// depend on the other rows. Blocks keep a slice of the panel near the core and the rounding error low: one
// chain over 16384 k's has 6 times the RMS error of MKL's product, blocks of 256 have 0.9 times.
#pragma once

#include "core/transpose.h"
#include "core/vec.h"

namespace pyllm {
namespace {

constexpr int kPanelVecs = 2;
constexpr int kPanel = kPanelVecs * kLanes;
constexpr int kRows = kVectorRegisters == 32 ? 12 : 6;
constexpr int64_t kDepth = 256;

constexpr int64_t panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

// Floats needed to pack a K x N matrix.
constexpr int64_t packed_size(int64_t k, int64_t n) { return panels(n) * kPanel * k; }

constexpr int64_t kAhead = 8;  // rows that packing asks for in advance

// Of `count` elements, those that a vector takes.
constexpr int64_t lanes_of(int64_t count) { return count < 0 ? 0 : count < kLanes ? count : kLanes; }

// Where a panel keeps row k: at row order(k). Rows k .. k + kLanes - 1 of a whole vector are order.step()
// apart.
struct Ascending {
  int64_t operator()(int64_t k) const { return k; }
  int64_t step() const { return 1; }
};

// Packs one panel of Width columns: element (k, n) = b[k * stride_k + n * stride_n], zero from column
// `columns` on, goes to packed[order(k) * Width + n].
template <int Width, class T, class Order = Ascending>
[[maybe_unused]] void pack_panel(const T* b, int64_t stride_k, int64_t stride_n, int64_t k_count,
                                 int64_t columns, float* packed, const Order& order = {}) {
  if (stride_n == 1) {
    for (int64_t k = 0; k < k_count; ++k) {
      const T* from = b + k * stride_k;
      float* to = packed + order(k) * Width;
#pragma GCC unroll 8
      for (int v = 0; v < Width; v += kLanes) {
        // Rows lie far apart, where the hardware does not look ahead.
        __builtin_prefetch(from + kAhead * stride_k + v);
        store_lanes(to + v, load_lanes(from + v, lanes_of(columns - v)), lanes_of(Width - v));
      }
    }
    return;
  }
  for (int v = 0; v < Width; v += kLanes) {
    const int64_t room = lanes_of(Width - v), lanes = lanes_of(columns - v);
    const T* from = b + v * stride_n;
    if (stride_k == 1) {
      for (int64_t k = 0; k < k_count; k += kLanes) {
        const int64_t depth = lanes_of(k_count - k);
        for (int64_t n = 0; n < lanes; ++n) __builtin_prefetch(from + (Width + n) * stride_n + k);
        Vec block[kLanes];
        load_transposed(from + k, stride_n, lanes, depth, block);
        float* to = packed + order(k) * Width + v;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if (i < depth) store_lanes(to + i * order.step() * Width, block[i], room);
        }
      }
    } else {
      for (int64_t k = 0; k < k_count; ++k) {
        for (int64_t n = 0; n < room; ++n) {
          packed[order(k) * Width + v + n] =
              n < lanes ? to_accumulator(from[k * stride_k + n * stride_n]) : 0.0f;
        }
      }
    }
  }
}

// Packs a K x N matrix into panels of Width columns, each k_count * Width floats.
template <int Width = kPanel, class T>
[[maybe_unused]] void pack_panels(const T* b, int64_t stride_k, int64_t stride_n, int64_t k_count,
                                  int64_t n_count, float* packed) {
  for (int64_t n = 0; n < n_count; n += Width) {
    const int64_t columns = n_count - n < Width ? n_count - n : Width;
    pack_panel<Width>(b + n * stride_n, stride_k, stride_n, k_count, columns, packed + n * k_count);
  }
}

// Where a tile finds A: rows in place, or a panel of kRows columns made by pack_panels<kRows> from A
// transposed, whose broadcasts read one line after the other.
struct RowMajor {
  const float* data;
  int64_t stride;
  const float* at(int64_t row, int64_t k) const { return data + row * stride + k; }
  RowMajor from(int64_t row, int64_t k) const { return {at(row, k), stride}; }
};
struct Strip {
  const float* data;
  const float* at(int64_t row, int64_t k) const { return data + k * kRows + row; }
  Strip from(int64_t row, int64_t k) const { return {at(row, k)}; }
};

// One tile and one block: Rows x kPanel of C. `columns` < kPanel cuts the store at the right edge.
template <int Rows, class Left>
[[maybe_unused]] void gemm_tile(Left a, const float* panel, float* c, int64_t ldc, int64_t depth,
                                int64_t columns, bool accumulate) {
  Vec acc[Rows][kPanelVecs] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = load(panel + k * kPanel), b1 = load(panel + k * kPanel + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec x = set1(*a.at(r, k));
      acc[r][0] = fma(x, b0, acc[r][0]);
      acc[r][1] = fma(x, b1, acc[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVecs; ++v) {
      const int64_t rest = columns - v * kLanes, lanes = rest < kLanes ? rest : kLanes;
      if (lanes <= 0) continue;
      float* to = c + r * ldc + v * kLanes;
      store_lanes(to, accumulate ? load_lanes(to, lanes) + acc[r][v] : acc[r][v], lanes);
    }
  }
}

// Fewer than 2 * Rows rows: the largest tile that fits, then the next smaller.
template <int Rows, class Left>
[[maybe_unused]] void gemm_tiles(Left a, const float* panel, float* c, int64_t ldc, int64_t rows,
                                 int64_t depth, int64_t columns, bool accumulate) {
  if (rows >= Rows) {
    gemm_tile<Rows>(a, panel, c, ldc, depth, columns, accumulate);
    if (rows == Rows) return;
    a = a.from(Rows, 0);
    c += Rows * ldc;
    rows -= Rows;
  }
  if constexpr (Rows > 1) {
    constexpr int kNext = Rows == kRows ? (kRows > 8 ? 8 : 4) : Rows / 2;
    gemm_tiles<kNext>(a, panel, c, ldc, rows, depth, columns, accumulate);
  }
}

// C (M x N, row stride ldc) = (accumulate ? C : 0) + A (M x K, row stride lda) * packed B.
[[maybe_unused]] inline void gemm(const float* a, int64_t lda, const float* packed, float* c, int64_t ldc,
                                  int64_t m, int64_t n, int64_t k, bool accumulate) {
  // A strip of A stays in the first-level cache while a block of the panels streams past it from the second.
  for (int64_t k0 = 0; k0 < k || (k0 == 0 && !accumulate); k0 += kDepth) {
    const int64_t depth = k - k0 < kDepth ? k - k0 : kDepth;
    for (int64_t row = 0; row < m; row += kRows) {
      const RowMajor left{a + row * lda + k0, lda};
      const int64_t rows = m - row < kRows ? m - row : kRows;
      for (int64_t column = 0; column < n; column += kPanel) {
        const int64_t columns = n - column < kPanel ? n - column : kPanel;
        gemm_tiles<kRows>(left, packed + column * k + k0 * kPanel, c + row * ldc + column, ldc, rows, depth,
                          columns, accumulate || k0 > 0);
      }
    }
  }
}

}  // namespace
}  // namespace pyllm
