// What a row has gathered from the blocks seen so far, and how blocks join: from left to right, scaled by
// powers of two, which is exact.
#pragma once

#include "ops/attention/scores.h"

namespace pyllm::attention {
namespace {

// Per row: the integer maximum, the sum of weights 2^(score - maximum), and the weighted sum of values,
// `width` floats a row.
struct Sums {
  float *maximum, *sum, *out;
  int64_t width;

  Sums from(int64_t row) const { return {maximum + row, sum + row, out + row * width, width}; }
};

[[maybe_unused]] inline int64_t value_width(const Problem& p) { return ceil_div(p.value_dim, 16) * 16; }

[[maybe_unused]] inline int64_t sums_size(const Problem& p, int64_t rows) {
  return rows * value_width(p) + ceil_div(2 * rows, 16) * 16;
}

[[maybe_unused]] inline Sums sums_at(const Problem& p, float* memory, int64_t rows) {
  const int64_t width = value_width(p);
  return {memory + rows * width, memory + rows * width + rows, memory, width};
}

[[maybe_unused]] inline void clear(const Sums& s, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) s.maximum[r] = -kInfinity;
  for (int64_t r = 0; r < rows; ++r) s.sum[r] = 0.0f;
  for (int64_t i = 0; i < rows * s.width; i += kLanes) store(s.out + i, zero());
}

// 2^n for integral n <= 0.
[[maybe_unused]] inline float power_of_two(float n) {
  if (!(n >= -126.0f)) return n != n ? n : 0.0f;
  return std::bit_cast<float>(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

// A block that a row does not see leaves it untouched.
[[maybe_unused]] inline void merge(const Sums& from, const Sums& into, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    if (from.maximum[r] == -kInfinity) continue;
    const float maximum = into.maximum[r] > from.maximum[r] ? into.maximum[r] : from.maximum[r];
    const Vec old_scale = set1(power_of_two(into.maximum[r] - maximum));
    const Vec new_scale = set1(power_of_two(from.maximum[r] - maximum));
    const Vec sum = fma(set1(from.sum[r]), new_scale, set1(into.sum[r]) * old_scale);
    store_partial(into.sum + r, sum, 1);
    into.maximum[r] = maximum;
    const float* source = from.out + r * from.width;
    float* out = into.out + r * into.width;
    for (int64_t i = 0; i < into.width; i += kLanes) {
      store(out + i, fma(load(source + i), new_scale, load(out + i) * old_scale));
    }
  }
}

// The sink joins as one more key without a value; then the division, and the logarithm.
template <class T>
[[maybe_unused]] void finish(const Forward& f, const Tile& t, const Sums& sums) {
  const Problem& p = f.problem;
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    double maximum = sums.maximum[row], sum = sums.sum[row];
    const float* from = sums.out + row * sums.width;
    const bool has_sink = p.sink_logits && p.sink_logits[head] != -kInfinity;
    if (has_sink) {
      const double sink = p.sink_logits[head] * 1.4426950408889634;
      if (maximum == -kInfinity) maximum = __builtin_ceil(sink);
      sum += __builtin_exp2(sink - maximum);
    }
    const bool seen = sums.maximum[row] != -kInfinity;
    const float divisor = seen ? static_cast<float>(sum) : 1.0f;
    const Vec inverse = set1(1.0f / divisor);
    T* out = query_row<T>(f.out, t.s, head, query);
    for_each_vec(p.value_dim, [&](int64_t i, int64_t lanes) {
      const Vec x = load_lanes(from + i, lanes);
      store_lanes(out + i, sizeof(T) == 2 ? x * inverse : x / set1(divisor), lanes);
    });
    const double lse = (maximum + __builtin_log2(sum)) * 0.6931471805599453;
    static_cast<float*>(f.lse)[row_index(p, t.s, head, query)] =
        seen || has_sink ? static_cast<float>(lse) : -kInfinity;
  });
}

}  // namespace
}  // namespace pyllm::attention
