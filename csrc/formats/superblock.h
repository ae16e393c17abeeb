// Blocks of 256 in groups, whose scales (and minimums) are small integers times one number of the block.
//
// First every group is fitted for itself. The largest of the scales sets the block's number, the others are
// rounded to its multiples: of the multiples near each fit, the one that leaves the least error is taken.
// Last the block's numbers are solved for again with all codes standing.
#pragma once

#include "formats/gguf_pack.h"
#include "formats/group_fit.h"

namespace pyllm::gguf {

// x ~ d * scale * (entry of Grid), scales in [ScaleLow, ScaleHigh]. IQ4_XS, Q3_K, Q6_K.
template <class Grid, int Size, int ScaleLow, int ScaleHigh>
struct ScaledSuperblock {
  static constexpr int kGroups = 256 / Size;
  Half d;
  int scale[kGroups];
  uint8_t codes[256];

  explicit ScaledSuperblock(const float* x) {
    float fits[kGroups], largest = 0;
    for (int g = 0; g < kGroups; ++g) {
      fits[g] = fit_scale<Grid>(x + g * Size, Size);
      if (std::fabs(fits[g]) > std::fabs(largest)) largest = fits[g];
    }
    d = to_half(largest / ScaleLow);
    const float inverse = inverse_or_zero(d);
    for (int g = 0; g < kGroups; ++g) scale[g] = best_scale(x + g * Size, fits[g] * inverse);
    refit(x);
    for (int j = 0; j < 256; ++j) {
      const float step = d * static_cast<float>(scale[j / Size]);
      codes[j] = Grid::code(x[j] * inverse_or_zero(step));
    }
  }

 private:
  float group_error(const float* x, float step) const {
    const float inverse = inverse_or_zero(step);
    return squared_error(x, Size, [&](float v) { return step * Grid::value(v * inverse); });
  }

  int best_scale(const float* x, float wanted) const {
    const int middle = static_cast<int>(nearest(clamped(wanted, ScaleLow, ScaleHigh)));
    int best = middle;
    float least = INFINITY;
    for (int s = std::max(middle - 1, ScaleLow); s <= std::min(middle + 1, ScaleHigh); ++s) {
      const float error = group_error(x, d * static_cast<float>(s));
      if (error < least) least = error, best = s;
    }
    return best;
  }

  float error(const float* x, float block_scale) const {
    float sum = 0;
    for (int g = 0; g < kGroups; ++g)
      sum += group_error(x + g * Size, block_scale * static_cast<float>(scale[g]));
    return sum;
  }

  void refit(const float* x) {
    float xq = 0, qq = 0;
    for (int g = 0; g < kGroups; ++g) {
      const float s = static_cast<float>(scale[g]), inverse = inverse_or_zero(d * s);
      const Sums sums = sums_of(x + g * Size, Size, [&](float v) { return s * Grid::value(v * inverse); });
      xq += sums.xq, qq += sums.qq;
    }
    const Half better = to_half(qq > 0 ? xq / qq : 0.0f);
    if (error(x, better) < error(x, d)) d = better;
  }
};

// x ~ d * scale * code - dmin * min, codes in [0, Top], scales and minimums in [0, Most]. Q2_K, Q4_K, Q5_K.
template <int Top, int Size, int Most>
struct AffineSuperblock {
  static constexpr int kGroups = 256 / Size;
  Half d, dmin;
  uint8_t scale[kGroups], min[kGroups], codes[256];

  explicit AffineSuperblock(const float* x) {
    Affine fits[kGroups];
    float largest_scale = 0, largest_min = 0;
    for (int g = 0; g < kGroups; ++g) {
      fits[g] = fit_affine<Top>(x + g * Size, Size, true);
      largest_scale = std::max(largest_scale, fits[g].scale);
      largest_min = std::max(largest_min, -fits[g].min);
    }
    d = to_half(largest_scale / Most), dmin = to_half(largest_min / Most);
    for (int g = 0; g < kGroups; ++g) choose(x + g * Size, g, fits[g]);
    for (int round = 0; round < 2; ++round) refit(x);
    for (int j = 0; j < 256; ++j) {
      const Affine now = affine(j / Size, d, dmin);
      codes[j] = static_cast<uint8_t>(affine_code(x[j], inverse_or_zero(now.scale), now.min, Top));
    }
  }

 private:
  Affine affine(int g, float scale_unit, float min_unit) const {
    return {scale_unit * static_cast<float>(scale[g]), -min_unit * static_cast<float>(min[g])};
  }

  static float group_error(const float* x, Affine fit) {
    const float inverse = inverse_or_zero(fit.scale);
    return squared_error(
        x, Size, [&](float v) { return fit.scale * affine_code(v, inverse, fit.min, Top) + fit.min; });
  }

  // The pair of integers near the fit with the least error.
  void choose(const float* x, int g, Affine fit) {
    const int s0 = static_cast<int>(nearest(clamped(fit.scale * inverse_or_zero(d), 0, Most)));
    const int m0 = static_cast<int>(nearest(clamped(-fit.min * inverse_or_zero(dmin), 0, Most)));
    float least = INFINITY;
    uint8_t best_scale = 0, best_min = 0;
    for (int s = std::max(s0 - 1, 0); s <= std::min(s0 + 1, Most); ++s) {
      for (int m = std::max(m0 - 1, 0); m <= std::min(m0 + 1, Most); ++m) {
        scale[g] = static_cast<uint8_t>(s), min[g] = static_cast<uint8_t>(m);
        const float error = group_error(x, affine(g, d, dmin));
        if (error < least) least = error, best_scale = scale[g], best_min = min[g];
      }
    }
    scale[g] = best_scale, min[g] = best_min;
  }

  float error(const float* x, float scale_unit, float min_unit) const {
    float sum = 0;
    for (int g = 0; g < kGroups; ++g) sum += group_error(x + g * Size, affine(g, scale_unit, min_unit));
    return sum;
  }

  // Least squares for (d, -dmin) over the block: x ~ d * a + (-dmin) * b with a = scale * code, b = min.
  void refit(const float* x) {
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int j = 0; j < 256; ++j) {
      const int g = j / Size;
      const Affine now = affine(g, d, dmin);
      const double a = scale[g] * affine_code(x[j], inverse_or_zero(now.scale), now.min, Top), b = min[g];
      aa += a * a, ab += a * b, bb += b * b, xa += x[j] * a, xb += x[j] * b;
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant <= 0) return;
    const double scale_unit = (bb * xa - ab * xb) / determinant, min_unit = (ab * xa - aa * xb) / determinant;
    if (scale_unit <= 0 || min_unit < 0) return;
    const Half better_d = to_half(static_cast<float>(scale_unit)),
               better_dmin = to_half(static_cast<float>(min_unit));
    if (error(x, better_d, better_dmin) < error(x, d, dmin)) d = better_d, dmin = better_dmin;
  }
};

}  // namespace pyllm::gguf
