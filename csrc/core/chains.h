// The one order in which a matrix product of linear layers and logits adds its terms, whatever the number of
// rows, the kernel and the layout of the operands: it follows from the depth alone.
//
//   k =   0   1   2  ..  15 |  16  17 ..  31 |  32 ..            a block: kLanes chains, here of 16 lanes
//        chain 0, 1, 2 .. 15   0   1  ..  15    0 ..             chain j takes k = j, j + 16, j + 32, ...
//
// A chain is a run of fused multiply-adds from zero over at most kChain k's; an element is the sum of its
// chains, ascending, block after block. Two kinds of kernel then give the same bits:
//   - lanes are k's (few rows): a vector of products along k holds all chains of a block, so that both
//     operands are read as they lie and nothing is transposed but the finished chains;
//   - lanes are columns (many rows): operands are packed chain after chain, and a tile of sums in registers
//     is added to memory once per chain.
// Up to kShortDepth k's, where such chains would be too short to pay, chain j takes the j-th run of at most
// 64 neighbours instead.
//
// Why chains are short: one chain of 256 has 3 times the error of MKL's product of a row and a matrix; of 64
// at most 1.7 times its RMS error, and half of it where there are many rows. Adding a tile to memory every
// 64 k's costs 2%.
#pragma once

#include "core/gemm.h"

namespace pyllm {
namespace {

// A tile of sums in registers. Strips of the left operand hold two tiles' rows: whole vectors to pack, and a
// chain of the panel that the first tile has brought near serves the second.
constexpr int kTileVecs = 3;
constexpr int kHalfStrip = kVectorRegisters == 32 ? 8 : 4;
constexpr int kWidePanel = kTileVecs * kLanes;
constexpr int kStripRows = 2 * kHalfStrip;

// Terms per turn of the inner loop: a tile of 12 accumulators leaves the core little room beside its loads.
constexpr int kUnrolled = kVectorRegisters == 32 ? 2 : 4;

constexpr int64_t kChain = kLanes == 16 ? 64 : 128;
constexpr int64_t kShortDepth = 16 * kLanes;
constexpr int64_t kShortChain = 64;
constexpr int64_t kRunsOfBlock = 16;

struct Chains {
  int64_t stride;  // k's from one term of a chain to the next: kLanes or 1
  int64_t length;  // terms of a chain; missing ones are zeros
  int64_t count;   // chains of a block
  int64_t blocks;

  // k's of a block.
  int64_t depth() const { return length * count; }
  int64_t padded_depth() const { return blocks * depth(); }
  // The row at which a packed block keeps its k-th k: chain after chain.
  int64_t operator()(int64_t k) const {
    return stride == 1 ? k : k % kLanes * length + k / static_cast<int64_t>(kLanes);
  }
  int64_t step() const { return stride == 1 ? 1 : length; }
};

// `interleaved`: as pictured; otherwise all chains are runs of at most kShortChain neighbours, as they are up
// to kShortDepth.
[[maybe_unused]] inline Chains chains_of(int64_t depth, bool interleaved = true) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  if (depth <= kShortDepth) {
    const int64_t count = depth > kShortChain ? ceil_div(depth, kShortChain) : 1;
    return {1, ceil_div(depth, count), count, 1};
  }
  if (!interleaved) {
    const int64_t runs = ceil_div(depth, kShortChain), blocks = ceil_div(runs, kRunsOfBlock);
    const int64_t count = ceil_div(runs, blocks);
    return {1, ceil_div(depth, count * blocks), count, blocks};
  }
  const int64_t blocks = ceil_div(depth, kLanes * kChain);
  return {kLanes, ceil_div(depth, blocks * kLanes), kLanes, blocks};
}

// Zero rows for the k's from k_count on that a block lacks.
template <int Width>
[[maybe_unused]] void zero_missing(int64_t k_count, const Chains& chains, float* packed) {
  for (int64_t k = k_count; k < chains.depth(); ++k) {
    for (int n = 0; n < Width; ++n) packed[chains(k) * Width + n] = 0.0f;
  }
}

// Packs the first k_count k's of a block into a panel of Width columns; the others are zero.
template <int Width, class T>
[[maybe_unused]] void pack_chains(const T* b, int64_t stride_k, int64_t stride_n, int64_t k_count,
                                  int64_t columns, const Chains& chains, float* packed) {
  zero_missing<Width>(k_count, chains, packed);
  pack_panel<Width>(b, stride_k, stride_n, k_count, columns, packed, chains);
}

// Floats that pack_matrix writes.
template <int Width>
[[maybe_unused]] int64_t packed_floats(const Chains& chains, int64_t n_count) {
  return (n_count + Width - 1) / Width * Width * chains.padded_depth();
}

// Packs a K x N matrix into panels of Width columns, each padded_depth() x Width floats, block after block.
template <int Width, class T>
[[maybe_unused]] void pack_matrix(const T* b, int64_t stride_k, int64_t stride_n, int64_t k_count,
                                  int64_t n_count, const Chains& chains, float* packed) {
  for (int64_t n = 0; n < n_count; n += Width) {
    const int64_t columns = n_count - n < Width ? n_count - n : Width;
    for (int64_t block = 0; block < chains.blocks; ++block) {
      const int64_t first = block * chains.depth(), rest = k_count - first;
      pack_chains<Width>(b + first * stride_k + n * stride_n, stride_k, stride_n,
                         rest < chains.depth() ? rest : chains.depth(), columns, chains,
                         packed + (n * chains.blocks + block * Width) * chains.depth());
    }
  }
}

// acc += x * row, in the register that acc is in. GCC 12 moves accumulators about when a loop of fused
// multiply-adds is unrolled, which costs more than unrolling gains.
inline __attribute__((always_inline)) void accumulate(Vec& acc, Vec x, Vec row) {
#if defined(__x86_64__) && !defined(PYLLM_SOFTWARE_AVX512)
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(row));
#else
  acc = fma(x, row, acc);
#endif
}

// One term of a chain: Rows x Vecs multiply-adds.
template <int Rows, int Vecs>
inline __attribute__((always_inline)) void add_term(const float* a, const float* b, Vec (&acc)[Rows][Vecs]) {
  Vec row[Vecs];
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const Vec x = set1(a[r]);
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) accumulate(acc[r][v], x, row[v]);
  }
}

// sums (+)= one chain: Rows x Vecs vectors, `stride` floats from row to row. `a` and `b` are the chain in a
// strip and in a panel.
template <int Rows, int Vecs>
[[maybe_unused]] void add_chain(const float* a, const float* b, int64_t terms, bool first, float* sums,
                                int64_t stride) {
  Vec acc[Rows][Vecs] = {};
  int64_t i = 0;
  for (; i + kUnrolled <= terms; i += kUnrolled, a += kUnrolled * kStripRows, b += kUnrolled * kWidePanel) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnrolled; ++u) add_term(a + u * kStripRows, b + u * kWidePanel, acc);
  }
  for (; i < terms; ++i, a += kStripRows, b += kWidePanel) add_term(a, b, acc);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) {
      float* to = sums + r * stride + v * kLanes;
      store(to, first ? acc[r][v] : load(to) + acc[r][v]);
    }
  }
}

// One block's chains of Rows <= kStripRows rows and a panel's first Vecs vectors, added to sums; the first
// block starts them.
template <int Rows, int Vecs>
[[maybe_unused]] void chain_tile(const float* strip, const float* panel, const Chains& chains, bool first,
                                 float* sums, int64_t stride) {
  constexpr int kUpper =
      Rows < kHalfStrip || Vecs == 1 ? Rows : kHalfStrip;  // a multiply-add takes four cycles
  for (int64_t j = 0; j < chains.count; ++j) {
    const float* a = strip + j * chains.length * kStripRows;
    const float* b = panel + j * chains.length * kWidePanel;
    const bool start = first && j == 0;
    add_chain<kUpper, Vecs>(a, b, chains.length, start, sums, stride);
    if constexpr (Rows > kUpper) {
      add_chain<Rows - kUpper, Vecs>(a + kUpper, b, chains.length, start, sums + kUpper * stride, stride);
    }
  }
}

// The next smaller tile.
constexpr int next_rows(int rows) {
  return rows > kHalfStrip + kHalfStrip / 2 ? kHalfStrip + kHalfStrip / 2
         : rows > kHalfStrip                ? kHalfStrip
                                            : rows / 2;
}

// chain_tile for the fewest rows and vectors that hold `rows` x `columns`; what lies past them is read as
// zeros and written where nobody looks.
template <int Rows = kStripRows, int Vecs = kTileVecs>
[[maybe_unused]] void panel_tile(int64_t rows, int64_t columns, const float* strip, const float* panel,
                                 const Chains& chains, bool first, float* sums, int64_t stride) {
  if constexpr (Vecs > 1) {
    if (columns <= (Vecs - 1) * kLanes) {
      return panel_tile<Rows, Vecs - 1>(rows, columns, strip, panel, chains, first, sums, stride);
    }
  }
  if constexpr (Rows > 1) {
    constexpr int kNext = next_rows(Rows);
    if (rows <= kNext) {
      return panel_tile<kNext, Vecs>(rows, columns, strip, panel, chains, first, sums, stride);
    }
  }
  chain_tile<Rows, Vecs>(strip, panel, chains, first, sums, stride);
}

}  // namespace
}  // namespace pyllm
