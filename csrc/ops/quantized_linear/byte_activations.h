// Rows of activations as signed bytes, by the definition in int8.h: chunk after chunk of 256 inputs, in a
// chunk row after row, in a row quad after quad in the order of a word's bytes.
#pragma once

#include "ops/quantized_linear/activations.h"

namespace pyllm::quantized_linear {
namespace {

// Of n floats, a multiple of kLanes; NaN where one is not finite.
[[maybe_unused]] inline float largest_magnitude(const float* x, int64_t n) {
  Vec most = zero(), flaw = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load(x + i);
    most = max(most, abs(v));
    flaw = flaw + (v - v);
  }
  const float sum = reduce_add(flaw);
  return sum == 0.0f ? reduce_max(most) : sum;
}

// One unit of `x` times inverse, to bytes.
[[maybe_unused]] inline void round_unit(const float* x, float inverse, int64_t unit, ByteChunk& to) {
  alignas(64) int32_t rounded[kInputs];
  for (int64_t i = 0; i < kInputs; i += kLanes) {
    const auto lanes = __builtin_convertvector(round(load(x + i) * set1(inverse)), SignedWords);
    __builtin_memcpy(rounded + i, &lanes, sizeof lanes);
  }
  for (int64_t half = 0; half < 2; ++half) {
    int32_t sum = 0;
    for (int64_t i = 0; i < kInputs / 2; ++i) sum += static_cast<int8_t>(rounded[half * kInputs / 2 + i]);
    to.sums[2 * unit + half] = sum;
  }
  for (int64_t quad = 0; quad < kInputs; quad += 4) {
    for (int64_t byte = 0; byte < 4; ++byte) {
      to.bytes[unit * kInputs + quad + byte] =
          static_cast<int8_t>(rounded[quad + packed::byte_of_input(byte)]);
    }
  }
}

class ByteActivations {
 public:
  ByteActivations(const Product& p, const Codec&)
      : rows_(p.rows),
        chunks_(ceil_div(p.weight.layout.inputs, kChunk)),
        memory_(chunks_ * rows_ * static_cast<int64_t>(sizeof(ByteChunk) / sizeof(float))) {
    visit_vector_dtype(p.dtype, [&](auto zero) {
      parallel_for(0, rows_, 4, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          round_row(static_cast<const decltype(zero)*>(p.left) + row * p.stride, p.weight, row);
        }
      });
    });
  }

  static bool same(const Product& a, const Product& b) { return same_left(a, b); }

  // The next row's follows.
  const ByteChunk* at(int64_t chunk, int64_t row) const { return chunks() + chunk * rows_ + row; }

  // Sum of the row's bytes in chunks [first, end).
  int32_t total(int64_t row, int64_t first, int64_t end) const {
    int32_t sum = 0;
    for (int64_t chunk = first; chunk < end; ++chunk) sum += at(chunk, row)->total;
    return sum;
  }

 private:
  ByteChunk* chunks() const { return reinterpret_cast<ByteChunk*>(memory_.get()); }

  template <class T>
  void round_row(const T* from, const packed::Weight& weight, int64_t row) const {
    alignas(64) float x[kChunk];
    const bool whole_row = weight.format->group == 0;
    float most = 0.0f;
    for (int64_t chunk = 0; whole_row && chunk < chunks_; ++chunk) {
      load_chunk(from, weight.layout.inputs, chunk, x);
      const float here = largest_magnitude(x, kChunk);
      most = here > most || here != here ? here : most;
    }
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      load_chunk(from, weight.layout.inputs, chunk, x);
      ByteChunk& to = chunks()[chunk * rows_ + row];
      to.total = 0;
      for (int64_t unit = 0; unit < kChunkUnits; ++unit) {
        const float* inputs = x + unit * kInputs;
        if (!whole_row) most = largest_magnitude(inputs, kInputs);
        to.scales[unit] = most / 127.0f;
        round_unit(inputs, most > 0.0f ? 127.0f / most : 0.0f, unit, to);
        to.total += to.sums[2 * unit] + to.sums[2 * unit + 1];
      }
    }
  }

  int64_t rows_, chunks_;
  Scratch memory_;
};

}  // namespace
}  // namespace pyllm::quantized_linear
