// The two products of a block, scores = Q K^T and sums = P V, in registers, straight from packed keys and
// values (packed_kv.h):
//
//            keys: groups of 16                   values: a row a key
//        d  [16 keys]  [16 keys]             key  [value_dim ...............]
//        |  [16 keys]  [16 keys]             |    [value_dim ...............]
//        v     Vecs vectors                  v     Vecs vectors
//
//   a tile: Rows x Vecs accumulators, one vector of the right side each, one broadcast of the left.
//   Many rows 12 x 2 (6 x 2 with 16 registers); few rows are widened, so that enough chains are in flight.
//
// A score is a sum over parts of 64 d's, each a chain of fused multiply-adds from zero over ascending d; a
// sum over values is one chain over ascending keys. Neither depends on the tile, so a row's bits do not
// depend on the rows beside it. Parts of 64, because one chain of 272 loses two bits more than plain PyTorch
// does.
#pragma once

#include "core/pairs.h"
#include "ops/attention/tile.h"

namespace pyllm::attention {
namespace {

// A block of 256 keys: a pointer to each group of 16 keys and to their values. Where pages are larger than a
// group the values of `run` keys follow each other. Groups past the last key repeat it: what is computed from
// them is masked. `after`: what is read after the block.
constexpr int64_t kBlockGroups = kBlock / kKeyGroup;
constexpr int64_t kStretchGroups = 4;
template <class T>
struct BlockView {
  const T *keys[kBlockGroups + kStretchGroups], *values[kBlockGroups + kStretchGroups], *after;
  int64_t run, value_width;
};

// Few rows are done with a line long before memory has the next: they ask for each line of the stretch of 64
// keys that comes after the one they are at. Pages are scattered and a group of keys is 2 KB at head size 64,
// so the hardware's prefetchers, which stop at page borders, run dry: 14 GB/s without asking, 22 with.
constexpr int64_t kStretch = kStretchGroups * kKeyGroup;
constexpr bool asks_ahead(int64_t rows) { return rows <= 4; }

// Queries of a tile: strips of kRows rows, of which each part of kDotDepth d's is contiguous:
// [strip][part][row][kDotDepth], zero behind head_dim.
[[maybe_unused]] inline int64_t query_parts(const Problem& p) { return ceil_div(p.head_dim, kDotDepth); }
[[maybe_unused]] inline int64_t query_strip_size(const Problem& p) {
  return query_parts(p) * kRows * kDotDepth;
}

// Scores of a strip: rows this far apart, off a power of two so that rows do not share cache sets.
constexpr int64_t kScoreStride = kBlock + 16;

// scores[Rows, columns [column, column + Vecs * kLanes)] = factor * dot products; `ahead`: groups to ask for
template <int Rows, int Vecs, class T>
[[maybe_unused]] void score_tile(const float* queries, int64_t head_dim, float factor, const BlockView<T>& b,
                                 int64_t column, const T* const* ahead, float* scores) {
  constexpr int64_t kStep = kPaired<T> ? 2 : 1;  // elements a key takes in a group's line
  const T* at[Vecs];
  for (int v = 0; v < Vecs; ++v) {
    const int64_t key = column + v * kLanes;
    at[v] = b.keys[key / kKeyGroup] + key % kKeyGroup * kStep;
  }
  for (int64_t d0 = 0; d0 < head_dim || d0 == 0; d0 += kDotDepth) {
    const float* q = queries + d0 * kRows;
    const int64_t depth = smaller(kDotDepth, head_dim - d0);
    Vec acc[Rows][Vecs] = {};
    const auto add = [&](auto half, int64_t d) {
      Vec x[Vecs];
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) {
        x[v] = load_half<decltype(half)::value>(at[v] + (d0 + d) * kKeyGroup, kKeyGroup);
        if constexpr (asks_ahead(Rows)) {
          const bool new_line = v * kLanes % kKeyGroup == 0 && (half == 0 || !kPaired<T>);
          if (new_line) __builtin_prefetch(ahead[v * kLanes / kKeyGroup] + (d0 + d + half) * kKeyGroup);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec y = set1(q[r * kDotDepth + d + half]);
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) acc[r][v] = fma(y, x[v], acc[r][v]);
      }
    };
    for (int64_t d = 0; d + 2 <= depth; d += 2) {
      add(std::integral_constant<int, 0>{}, d);
      add(std::integral_constant<int, 1>{}, d);
    }
    if (depth % 2) add(std::integral_constant<int, 0>{}, depth - 1);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) {
        float* to = scores + r * kScoreStride + column + v * kLanes;
        const Vec sum = d0 == 0 ? acc[r][v] : load(to) + acc[r][v];
        store(to, d0 + kDotDepth < head_dim ? sum : sum * set1(factor));
      }
    }
  }
}

// sums[Rows, columns of Vecs vectors] (+)= weights . values for `keys` keys; values points to the first's,
// `ahead` to what is asked for.
template <int Rows, int Vecs, class T>
[[maybe_unused]] void value_tile(const float* weights, const T* values, const T* ahead, int64_t width,
                                 int64_t keys, bool accumulate, float* sums) {
  constexpr int64_t kStep = kPaired<T> ? 2 : 1;
  Vec acc[Rows][Vecs] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) acc[r][v] = load(sums + r * width + v * kLanes);
    }
  }
  const auto add = [&](auto half, int64_t k) {
    Vec x[Vecs];
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) {
      x[v] = load_half<decltype(half)::value>(values + k * width + v * kLanes * kStep, width);
      if constexpr (asks_ahead(Rows)) {
        const bool new_line = v * kLanes * sizeof(T) * kStep % 64 == 0 && (half == 0 || !kPaired<T>);
        if (new_line) __builtin_prefetch(ahead + (k + half) * width + v * kLanes * kStep);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec y = set1(weights[r * kScoreStride + k + half]);
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) acc[r][v] = fma(y, x[v], acc[r][v]);
    }
  };
  for (int64_t k = 0; k + 2 <= keys; k += 2) {
    add(std::integral_constant<int, 0>{}, k);
    add(std::integral_constant<int, 1>{}, k);
  }
  if (keys % 2) add(std::integral_constant<int, 0>{}, keys - 1);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) store(sums + r * width + v * kLanes, acc[r][v]);
  }
}

// Vectors beside each other for a tile of that many rows: as many accumulators as the registers hold, at most
// four vectors.
template <int Rows>
constexpr int kWideVecs = Rows > kRows / 3                      ? kPanelVecs
                          : kVectorRegisters == 32 || Rows <= 2 ? 4
                                                                : 2;

// Calls f(std::integral_constant<int, Rows>, first row) for tiles of register rows that cover `rows`.
template <int Most, class F>
[[maybe_unused]] inline void for_each_row_tile(int64_t rows, int64_t first, const F& f) {
  if (rows >= Most) {
    f(std::integral_constant<int, Most>{}, first);
    first += Most;
    rows -= Most;
  }
  if constexpr (Most > 1) {
    constexpr int kNext = Most > 8 ? 8 : Most > 4 ? 4 : Most - 1;
    if (rows > 0) for_each_row_tile<kNext>(rows, first, f);
  }
}

// Dot products of a strip's rows with the keys in the columns asked for, times `factor`.
template <class T>
[[maybe_unused]] void block_scores(const float* queries, int64_t rows, int64_t head_dim, float factor,
                                   const BlockView<T>& b, const Columns& c, float* scores) {
  for_each_row_tile<kRows>(rows, 0, [&](auto count, int64_t row) {
    constexpr int kCount = decltype(count)::value, kWide = kWideVecs<kCount>;
    const float* q = queries + row * kDotDepth;
    float* to = scores + row * kScoreStride;
    const auto groups_after = [&](int64_t column) {
      return column < c.last ? b.keys + column / kKeyGroup : b.values + c.first / kKeyGroup;
    };
    int64_t column = c.first;
    for (; column + kWide * kLanes <= c.last; column += kWide * kLanes) {
      score_tile<kCount, kWide>(q, head_dim, factor, b, column, groups_after(column + kWide * kLanes), to);
    }
    for (; column < c.last; column += kPanel) {
      score_tile<kCount, kPanelVecs>(q, head_dim, factor, b, column, groups_after(column + kPanel), to);
    }
  });
}

// sums (rows x value_width) = weights . values over keys [c.first, last) of the block.
template <class T>
[[maybe_unused]] void block_sums(const float* weights, int64_t rows, const BlockView<T>& b, const Columns& c,
                                 int64_t last, float* sums) {
  constexpr int64_t kStep = kPaired<T> ? 2 : 1;
  const int64_t width = b.value_width;
  const int64_t stretch = asks_ahead(rows) ? smaller(b.run, kStretch) : b.run;
  for (int64_t first = c.first, end; first < last; first = end) {
    end = smaller((first / stretch + 1) * stretch, last);
    const T* values = b.values[first / kKeyGroup] + first % kKeyGroup * width;
    const T* ahead = end < last ? b.values[end / kKeyGroup] : b.after;
    for_each_row_tile<kRows>(rows, 0, [&](auto count, int64_t row) {
      constexpr int kCount = decltype(count)::value, kWide = kWideVecs<kCount>;
      const float* from = weights + row * kScoreStride + first;
      float* to = sums + row * width;
      const bool more = first > c.first;
      int64_t column = 0;
      for (; column + kWide * kLanes <= width; column += kWide * kLanes) {
        value_tile<kCount, kWide>(from, values + column * kStep, ahead + column * kStep, width, end - first,
                                  more, to + column);
      }
      for (; column < width; column += kLanes) {
        value_tile<kCount, 1>(from, values + column * kStep, ahead + column * kStep, width, end - first, more,
                              to + column);
      }
    });
  }
}

template <class T>
[[maybe_unused]] Vec value_at(const BlockView<T>& b, int64_t key, int64_t column) {
  const int64_t step = kPaired<T> ? 2 : 1;
  const T* line = b.values[key / kKeyGroup] + key % kKeyGroup / 2 * 2 * b.value_width + column * step;
  return key % 2 ? load_half<1>(line, b.value_width) : load_half<0>(line, b.value_width);
}

// The same without the terms whose weight is masked, for values that are not finite; value_at(b, key, column)
// is a vector of values.
template <class View>
[[maybe_unused]] void block_sums_unmasked(const float* weights, int64_t rows, const View& b, const Columns& c,
                                          int64_t last, float* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < b.value_width; column += kLanes) {
      Vec sum = zero();
      for (int64_t k = c.first; k < last; ++k) {
        const float weight = weights[row * kScoreStride + k];
        if (!is_masked(weight)) sum = fma(set1(weight), value_at(b, k, column), sum);
      }
      store(sums + row * b.value_width + column, sum);
    }
  }
}

}  // namespace
}  // namespace pyllm::attention
