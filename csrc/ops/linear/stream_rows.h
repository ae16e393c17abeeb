// Few rows against a right operand that is contiguous along the columns only (grad x of a few tokens): memory
// sets the speed, so that right is read once, where it lies, and nothing of it is packed. A chain is a run of
// at most 64 neighbouring k's.
//
// One or two rows: long pieces of rows, because the hardware asks ahead along a row.
//
//   for parts of the columns                        parallel
//     for chain
//       for 4 k's: chain += left[row, k ..] * right[k .., part]     the chain in the first-level cache
//       sums of the part += chain
//     out = sums + bias, rounded once
//
// Up to 16 rows, where the sums of a long piece would not fit and arithmetic counts:
//
//   for tiles of the columns                        parallel
//     for chain
//       Rows x Vecs sums in registers:              4 x 6 or 8 x 3 (AVX2: 4 x 3)
//         sums += left[row, k] * right[k, tile]     a row of right after the other, those to come asked for
//       tile of out += sums                         first-level cache
//     out = tile + bias, rounded once
#pragma once

#include "ops/linear/many_rows.h"

namespace pyllm::linear {
namespace {

constexpr int kStreamRows = 16;
constexpr int kMostRows = kHalfStrip;  // in registers
constexpr int64_t kAheadBytes = 4096;  // of the tile's rows that are asked for
constexpr int64_t kStreamTasks = 4;    // wanted
constexpr int64_t kMostPart = 2048, kLeastPart = 256;
constexpr int kTerms = 4;

constexpr int vecs_for(int rows) { return rows == 4 && kMostRows == 8 ? 6 : 3; }

// chain += left * `count` neighbouring rows of right, `step` apart. left: Rows floats per k.
template <int Rows, class T>
void add_terms(const float* left, const T* right, int64_t step, int64_t count, int64_t width, float* chain,
               int64_t part) {
  for_each_vec(width, [&](int64_t n, int64_t lanes) {
    Vec sum[Rows];
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) sum[r] = load(chain + r * part + n);
    const auto add = [&](int64_t term) {
      __builtin_prefetch(right + (kTerms + term) * step + n);
      const Vec w = load_lanes(right + term * step + n, lanes);
#pragma GCC unroll 2
      for (int r = 0; r < Rows; ++r) sum[r] = fma(set1(left[term * Rows + r]), w, sum[r]);
    };
    if (count == kTerms) {
#pragma GCC unroll 4
      for (int term = 0; term < kTerms; ++term) add(term);
    } else {
      for (int64_t term = 0; term < count; ++term) add(term);
    }
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) store(chain + r * part + n, sum[r]);
  });
}

// out[:, column ... column + width), `part` floats from row to row of sums.
template <int Rows, class T>
void stream_part(const Product& p, const float* left, const Chains& chains, int64_t column, int64_t width,
                 int64_t part, float* chain) {
  float* sums = chain + Rows * part;
  for (int64_t first = 0; first < p.depth; first += chains.length) {
    const int64_t terms = smaller(chains.length, p.depth - first);
    for (int64_t n = 0; n < Rows * part; n += kLanes) store(chain + n, zero());
    for (int64_t k = 0; k < terms; k += kTerms) {
      add_terms<Rows>(left + (first + k) * Rows, at<T>(p.right, column, first + k), p.right.stride_k,
                      smaller(terms - k, kTerms), width, chain, part);
    }
    for (int64_t n = 0; n < Rows * part; n += kLanes) {
      store(sums + n, first == 0 ? load(chain + n) : load(sums + n) + load(chain + n));
    }
  }
  finish_tile<T>(p, 0, p.rows, column, width, sums, part);
}

// One chain of `terms` k's: tile (+)= left * right for Rows rows and Vecs vectors, of which `columns` exist.
// left: `left_step` floats per k.
template <int Rows, int Vecs, class T>
void stream_chain(const float* left, int64_t left_step, const T* right, int64_t right_step, int64_t terms,
                  int64_t columns, bool first, float* tile, int64_t tile_stride) {
  constexpr int64_t kRowBytes = Vecs * kLanes * static_cast<int64_t>(sizeof(T));
  constexpr int64_t kRowsAhead = larger(1, kAheadBytes / kRowBytes);
  Vec acc[Rows][Vecs] = {};
  const bool whole = columns >= Vecs * kLanes;
  for (int64_t k = 0; k < terms; ++k, left += left_step, right += right_step) {
    for (int64_t byte = 0; byte < kRowBytes; byte += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const char*>(right + kRowsAhead * right_step) + byte);
    }
    Vec row[Vecs];
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) {
      row[v] =
          whole ? load(right + v * kLanes) : load_lanes(right + v * kLanes, lanes_of(columns - v * kLanes));
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec x = set1(left[r]);
#pragma GCC unroll 16
      for (int v = 0; v < Vecs; ++v) accumulate(acc[r][v], x, row[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) {
      float* to = tile + r * tile_stride + v * kLanes;
      store(to, first ? acc[r][v] : load(to) + acc[r][v]);
    }
  }
}

// The chain for the fewest vectors that hold `columns`.
template <int Rows, int Vecs, class T>
void stream_columns(const float* left, int64_t left_step, const T* right, int64_t right_step, int64_t terms,
                    int64_t columns, bool first, float* tile, int64_t tile_stride) {
  if constexpr (Vecs > 1) {
    if (columns <= Vecs / 2 * kLanes) {
      return stream_columns<Rows, Vecs / 2>(left, left_step, right, right_step, terms, columns, first, tile,
                                            tile_stride);
    }
  }
  stream_chain<Rows, Vecs>(left, left_step, right, right_step, terms, columns, first, tile, tile_stride);
}

// out[:, column ... column + width). left: Rows floats per k.
template <int Rows, class T>
void stream_tile(const Product& p, const float* left, const Chains& chains, int64_t column, int64_t width) {
  constexpr int kAtOnce = Rows < kMostRows ? Rows : kMostRows;
  constexpr int kVecs = vecs_for(kAtOnce);
  constexpr int64_t kTile = kVecs * kLanes;
  alignas(kCacheLine) float tile[Rows * kTile];
  for (int64_t k = 0; k < p.depth || k == 0; k += chains.length) {
    const int64_t terms = smaller(chains.length, p.depth - k);
    for (int r = 0; r < Rows; r += kAtOnce) {
      stream_columns<kAtOnce, kVecs>(left + k * Rows + r, Rows, at<T>(p.right, column, k), p.right.stride_k,
                                     terms, width, k == 0, tile + r * kTile, kTile);
    }
  }
  finish_tile<T>(p, 0, p.rows, column, width, tile, kTile);
}

template <int Rows, class T>
void stream_parts(const Product& p, const float* left, const Chains& chains) {
  const int64_t parts =
      larger(ceil_div(p.columns, kMostPart), smaller(kStreamTasks, larger(1, p.columns / kLeastPart)));
  const int64_t part = ceil_div(ceil_div(p.columns, parts), 2 * kLanes) * 2 * kLanes;
  for_each_task(ceil_div(p.columns, part), 2 * Rows * part, [&](int64_t task, float* chain) {
    const int64_t column = task * part;
    stream_part<Rows, T>(p, left, chains, column, smaller(p.columns - column, part), part, chain);
  });
}

template <int Rows, class T>
void stream_tiles(const Product& p, const float* left, const Chains& chains) {
  constexpr int64_t width = vecs_for(Rows < kMostRows ? Rows : kMostRows) * kLanes;
  const int64_t grain = 1 + (1 << 14) / (p.depth * width + 1);  // 16384 elements of right pay for a fork
  parallel_for(0, ceil_div(p.columns, width), grain, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin * width; column < smaller(p.columns, end * width); column += width) {
      stream_tile<Rows, T>(p, left, chains, column, smaller(p.columns - column, width));
    }
  });
}

template <int Rows, class T>
void product_stream(const Product& p, const Chains& chains) {
  const Scratch copied(p.depth * Rows);
  float* left = copied.get();
  for (int64_t k = 0; k < p.depth; ++k) {
    for (int64_t r = 0; r < Rows; ++r) {
      left[k * Rows + r] = r < p.rows ? to_accumulator(*at<T>(p.left, r, k)) : 0.0f;
    }
  }
  if constexpr (Rows <= 2) {
    stream_parts<Rows, T>(p, left, chains);
  } else {
    stream_tiles<Rows, T>(p, left, chains);
  }
}

// For the fewest rows that hold those of p.
template <class T, int Rows = 1>
void product_stream_rows(const Product& p, const Chains& chains) {
  if constexpr (Rows < kStreamRows) {
    if (p.rows > Rows) return product_stream_rows<T, 2 * Rows>(p, chains);
  }
  product_stream<Rows, T>(p, chains);
}

}  // namespace
}  // namespace pyllm::linear
