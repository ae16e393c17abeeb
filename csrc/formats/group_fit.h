// Scales (and minimums) of a group of weights that leave the least squared error, by search.
//
// Rounding makes the error jump with the scale, so a few dozen scales are tried. The codes that each gives
// have a best scale of their own in closed form (least squares), and the best of all wins. Groups are short
// (16 or 32), the sums run in eight lanes that compilers turn into vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "formats/gguf_blocks.h"

namespace pyllm::gguf {

inline constexpr int kLanes = 8;

// Nearest integer for |x| < 2^22, halves to even: float addition rounds away what does not fit.
inline float nearest(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

inline float clamped(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The integers [Low, High]. A code is the distance from Low.
template <int Low, int High>
struct Integers {
  static constexpr int kCandidates = 24;
  // What the largest weight of a group may become: from clipped by a fifth to a grid left half empty by
  // rounding.
  static constexpr float kLeast = 0.8f * High, kMost = 0.6f - Low;
  static float value(float x) { return nearest(clamped(x, Low, High)); }
  static uint8_t code(float x) { return static_cast<uint8_t>(static_cast<int>(value(x)) - Low); }
};

// The entries of kIq4Values. A code is the index.
struct Nonlinear {
  static constexpr int kCandidates = 24;
  static constexpr float kLeast = 100.0f, kMost = 132.0f;
  static uint8_t code(float x) {
    static const Nonlinear table;
    return table.index_[static_cast<int>(nearest(clamped(x, -127.0f, 113.0f))) + 127];
  }
  static float value(float x) { return kIq4Values[code(x)]; }

 private:
  Nonlinear() {
    for (int x = -127, i = 0; x <= 113; ++x) {
      while (i < 15 && x - kIq4Values[i] > kIq4Values[i + 1] - x) ++i;
      index_[x + 127] = static_cast<uint8_t>(i);
    }
  }
  uint8_t index_[241];
};

struct Sums {
  float q = 0, qq = 0, xq = 0;
};

// Sums over the n codes that f gives to x.
template <class F>
Sums sums_of(const float* __restrict x, int n, const F& f) {
  float q[kLanes] = {}, qq[kLanes] = {}, xq[kLanes] = {};
  for (int j = 0; j < n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float value = f(x[j + l]);
      q[l] += value;
      qq[l] += value * value;
      xq[l] += x[j + l] * value;
    }
  }
  Sums sums;
  for (int l = 0; l < kLanes; ++l) sums.q += q[l], sums.qq += qq[l], sums.xq += xq[l];
  return sums;
}

// Sum of (x - f(x))^2.
template <class F>
float squared_error(const float* __restrict x, int n, const F& f) {
  float lanes[kLanes] = {};
  for (int j = 0; j < n; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float error = x[j + l] - f(x[j + l]);
      lanes[l] += error * error;
    }
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

inline float inverse_or_zero(float x) { return x == 0 ? 0.0f : 1.0f / x; }

inline float largest_magnitude(const float* x, int n) {
  float peak = 0;
  for (int j = 0; j < n; ++j) peak = std::max(peak, std::fabs(x[j]));
  return peak;
}

// s with x ~ s * (entry of Grid); 0 for a group of zeros.
template <class Grid>
float fit_scale(const float* x, int n) {
  const float peak = largest_magnitude(x, n);
  if (peak < 1e-30f) return 0;
  float best = 0, scale = 0;
  for (int i = 0; i < Grid::kCandidates; ++i) {
    const float reach =
        Grid::kLeast + (Grid::kMost - Grid::kLeast) * (static_cast<float>(i) / (Grid::kCandidates - 1));
    for (const float inverse : {reach / peak, -reach / peak}) {
      const Sums sums = sums_of(x, n, [&](float v) { return Grid::value(v * inverse); });
      if (sums.qq > 0 && sums.xq * sums.xq > best * sums.qq) {
        best = sums.xq * sums.xq / sums.qq;
        scale = sums.xq / sums.qq;
      }
    }
  }
  return scale;
}

struct Affine {
  float scale = 0, min = 0;  // x ~ scale * q + min
};

inline float affine_code(float x, float inverse, float min, float top) {
  return nearest(clamped((x - min) * inverse, 0.0f, top));
}

// The best scale and minimum for given codes; `never_positive` keeps the minimum at or below zero. `gain` is
// by how much the squared error lies below that of all zeros.
inline Affine solve_affine(const Sums& s, float sum_x, int n, bool never_positive, float& gain) {
  const float count = static_cast<float>(n), determinant = count * s.qq - s.q * s.q;
  Affine fit;
  if (determinant > 0) {
    fit.scale = (count * s.xq - sum_x * s.q) / determinant;
    fit.min = (s.qq * sum_x - s.q * s.xq) / determinant;
  } else {
    fit.min = sum_x / count;
  }
  if (never_positive && fit.min > 0) fit = {s.qq > 0 ? s.xq / s.qq : 0.0f, 0.0f};
  gain = 2 * (fit.scale * s.xq + fit.min * sum_x) -
         (fit.scale * fit.scale * s.qq + 2 * fit.scale * fit.min * s.q + count * fit.min * fit.min);
  return fit;
}

// Scale and minimum with codes 0 to Top.
template <int Top>
Affine fit_affine(const float* x, int n, bool never_positive) {
  float low = x[0], high = x[0], sum_x = 0;
  for (int j = 0; j < n; ++j) {
    low = std::min(low, x[j]);
    high = std::max(high, x[j]);
    sum_x += x[j];
  }
  if (never_positive) low = std::min(low, 0.0f);
  if (high - low < 1e-30f) return {0.0f, low};
  Affine best{(high - low) / Top, low};
  float most = -INFINITY;
  const auto consider = [&](float inverse, float min) {
    const Sums sums = sums_of(x, n, [&](float v) { return affine_code(v, inverse, min, Top); });
    float gain;
    const Affine fit = solve_affine(sums, sum_x, n, never_positive, gain);
    if (gain > most && fit.scale > 0) most = gain, best = fit;
  };
  constexpr int kCandidates = 24;
  for (int i = 0; i < kCandidates; ++i) {
    // As many steps in the range of the group: fewer than Top leave room, more clip at the top or at both
    // ends.
    const float steps = Top * 0.85f + (0.5f + Top * 0.35f) * (static_cast<float>(i) / (kCandidates - 1));
    const float inverse = steps / (high - low);
    consider(inverse, low);
    if (steps > Top) consider(inverse, low + 0.5f * (steps - Top) / inverse);
  }
  for (int round = 0; round < 2; ++round) consider(1.0f / best.scale, best.min);
  return best;
}

}  // namespace pyllm::gguf
