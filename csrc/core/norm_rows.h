// What the norms of rows share: the sum with a residual, and gradients of weights, which are sums over rows.
//
// Rows are cut into parts by their number alone. Each part is summed in row order into floats of its own, and
// the parts are added in order: bits do not depend on the number of threads.
#pragma once

#include "core/parallel.h"
#include "core/scratch.h"
#include "core/twin.h"

namespace pyllm {
namespace {

// Rows per task of a forward pass: about 32 KB of row data, so that a fork pays off.
[[maybe_unused]] inline int64_t row_grain(int64_t columns) {
  return columns >= 8192 ? 1 : 8192 / (columns ? columns : 1);
}

// At least 64 rows a part and at most 64 parts.
constexpr int64_t part_rows(int64_t rows) { return rows <= 64 * 64 ? 64 : (rows + 63) / 64; }
constexpr int64_t part_count(int64_t rows) { return (rows + part_rows(rows) - 1) / part_rows(rows); }

// sum = x + residual
template <class T>
[[maybe_unused]] void add_rows(const T* x, const T* residual, T* sum, int64_t columns) {
  for_each_twin(columns, [&](int64_t i, int64_t n) {
    const Twin a = load_twin(x + i, n), b = load_twin(residual + i, n);
    store_twin(sum + i, {a.first + b.first, a.second + b.second}, n);
  });
}

// Floats that hold one sum for each column, whole twins.
[[maybe_unused]] inline int64_t sums_width(int64_t columns) { return (columns + kTwin - 1) / kTwin * kTwin; }

// Adds the parts' sums, `stride` floats from part to part, to `out`.
template <class T>
[[maybe_unused]] void add_parts(const float* sums, int64_t parts, int64_t stride, int64_t columns, T* out) {
  const int64_t grain = 1 + 32768 / (parts * kTwin);
  parallel_for(0, sums_width(columns) / kTwin, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kTwin; i < end * kTwin; i += kTwin) {
      Vec first = zero(), second = zero();
      for (int64_t part = 0; part < parts; ++part) {
        first = first + load(sums + part * stride + i);
        second = second + load(sums + part * stride + i + kLanes);
      }
      store_twin(out + i, {first, second}, columns - i < kTwin ? columns - i : kTwin);
    }
  });
}

// f(row, sums) for every row, where f adds the row's terms to `sums`: Count times sums_width(columns) floats,
// each laid out as twins are. Then out[c] holds the c-th of them.
template <int Count, class T, class F>
[[maybe_unused]] void sum_over_rows(int64_t rows, int64_t columns, T* const (&out)[Count], const F& f) {
  const int64_t parts = part_count(rows), size = part_rows(rows);
  const int64_t width = sums_width(columns), stride = Count * width;
  const Scratch sums(parts * stride);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* own = sums.get() + part * stride;
      for (int64_t i = 0; i < stride; ++i) own[i] = 0.0f;
      const int64_t last = (part + 1) * size < rows ? (part + 1) * size : rows;
      for (int64_t row = part * size; row < last; ++row) f(row, own);
    }
    finish_streams();
  });
  for (int c = 0; c < Count; ++c) add_parts(sums.get() + c * width, parts, stride, columns, out[c]);
}

}  // namespace
}  // namespace pyllm
