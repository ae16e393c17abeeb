// Rows of activations as fixed-point numbers for products of bytes (fixed_sums.h): 24 bits, a scale for each
// 32 inputs, so that steps are about what lies between two float32 at the largest of them.
//
//   scale of 32 inputs = max |x| / 127.5,  NaN where one is not finite
//   x = scale * (high + middle / 2^8 + low / 2^16)        three signed bytes
//
// Chunk after chunk of 256 inputs, in a chunk row after row, in a row quad after quad: the low bytes of its
// four inputs in the order of a word's bytes, the middle ones, the high ones, and a word of zeros.
#pragma once

#include "ops/quantized_linear/byte_activations.h"

namespace pyllm::quantized_linear {
namespace {

constexpr float kFixedOne = 0x1p16f;
constexpr float kLargestFixed = 8355000.0f;  // a little below 127 * 2^16 + 127 * 2^8 + 127

// Bytes of four words as one word of the lowest bytes, one of the next, ... each in the order of a quad.
template <int... I>
inline Words words_of_bytes(Words quads, std::integer_sequence<int, I...>) {
  typedef uint8_t Bytes __attribute__((vector_size(sizeof(Vec))));
  const Bytes bytes = reinterpret_cast<Bytes>(quads);
  return reinterpret_cast<Words>(__builtin_shufflevector(
      bytes, bytes, (I / 16 * 16 + packed::byte_of_input(I % 4) * 4 + I % 16 / 4)...));
}

// The digits of numbers to base 256, each from -128 to 127, as the lower three bytes of words.
inline Words digits_of(SignedWords numbers) {
  constexpr uint32_t kHalves = 0x808080u;
  return (reinterpret_cast<Words>(numbers) + kHalves) ^ kHalves;
}

class FixedActivations {
 public:
  explicit FixedActivations(const Product& p)
      : rows_(p.rows),
        memory_(ceil_div(p.weight.layout.inputs, kChunk) * p.rows *
                static_cast<int64_t>(sizeof(FixedChunk) / sizeof(float))) {
    visit_vector_dtype(p.dtype, [&](auto zero) {
      parallel_for_chunks(p, [&](int64_t chunk) {
        for (int64_t row = 0; row < rows_; ++row) {
          alignas(64) float x[kChunk];
          load_chunk(static_cast<const decltype(zero)*>(p.left) + row * p.stride, p.weight.layout.inputs,
                     chunk, x);
          fix_row(x, sum_inputs_of(*p.weight.format), chunks()[chunk * rows_ + row]);
        }
      });
    });
  }

  // The next row's follows.
  const FixedChunk* at(int64_t chunk, int64_t row) const { return chunks() + chunk * rows_ + row; }

 private:
  FixedChunk* chunks() const { return reinterpret_cast<FixedChunk*>(memory_.get()); }

  static void fix_row(const float* x, int64_t sum_inputs, FixedChunk& to) {
    constexpr int64_t kHalf = kInputs / 2;
    float minus_totals[kChunk / kHalf];
    for (int64_t unit = 0; unit < kChunkUnits; ++unit) {
      const float* inputs = x + unit * kInputs;
      const float most = largest_magnitude(inputs, kInputs);
      // The factor of what is smaller would be infinite.
      const float up = most < 0x1p-60f ? 0x1p60f : 1.0f;
      const Vec factor = set1(most > 0.0f ? kLargestFixed / (most * up) : 0.0f);
      to.scales[unit] = most * (kFixedOne / kLargestFixed);
      for (int64_t half = 0; half < 2; ++half) {
        Vec total = zero();
        for (int64_t i = half * kHalf; i < (half + 1) * kHalf; i += kLanes) {
          const Vec numbers = round(load(inputs + i) * set1(up) * factor);
          total = total + numbers;
          const Words words =
              words_of_bytes(digits_of(__builtin_convertvector(numbers, SignedWords)),
                             std::make_integer_sequence<int, static_cast<int>(sizeof(Vec))>{});
          __builtin_memcpy(to.digits + (unit * kInputs + i) * 4, &words, sizeof words);
        }
        minus_totals[2 * unit + half] = -(to.scales[unit] * (1 / kFixedOne) * reduce_add(total));
      }
    }
    const int64_t halves = sum_inputs / kHalf;
    for (int64_t sum = 0; sum < kChunk / sum_inputs; ++sum) {
      to.minus_totals[sum] = 0.0f;
      for (int64_t i = sum * halves; i < (sum + 1) * halves; ++i) to.minus_totals[sum] += minus_totals[i];
    }
  }

  int64_t rows_;
  Scratch memory_;
};

}  // namespace
}  // namespace pyllm::quantized_linear
