// Rows of activations as kernels read them: floats, chunk after chunk of 256 inputs, in a chunk row after
// row, in a row quad after quad in the order of a word's bytes, each divided by the power of two that its
// code will carry. Beside them, for every sum of a block, what centering and minimums need: minus the sum of
// its inputs.
#pragma once

#include "core/scratch.h"
#include "ops/quantized_linear/jobs.h"
#include "ops/quantized_linear/quantized_linear.h"
#include "ops/quantized_linear/scales.h"

namespace pyllm::quantized_linear {
namespace {

// f(a value of the dtype's type): float, bfloat16 or float16.
template <class F>
void visit_vector_dtype(DType dtype, const F& f) {
  if (dtype == DType::f32) f(float{});
  if (dtype == DType::bf16) f(bfloat16{});
  if (dtype == DType::f16) f(float16{});
}

// A chunk of a row as floats; zeros follow its last input.
template <class T>
[[maybe_unused]] void load_chunk(const T* row, int64_t inputs, int64_t chunk, float* x) {
  const int64_t count = smaller(kChunk, inputs - chunk * kChunk);
  to_float(row + chunk * kChunk, x, count);
  for (int64_t i = count; i < kChunk; ++i) x[i] = 0.0f;
}

// f(chunk) for all chunks of all rows, in parallel where there are many.
template <class F>
void parallel_for_chunks(const Product& p, const F& f) {
  const int64_t grain = 1 + (1 << 15) / (p.rows * kChunk + 1);
  parallel_for(0, ceil_div(p.weight.layout.inputs, kChunk), grain, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) f(chunk);
  });
}

class Activations {
 public:
  Activations(const Product& p, const Codec& codec)
      : rows_(p.rows), floats_(ceil_div(p.weight.layout.inputs, kChunk) * p.rows * kChunkRow) {
    for (int64_t i = 0; i < kInputs; ++i) inverses_[i] = 1.0f / codec.factors[i];  // powers of two: exact
    visit_vector_dtype(p.dtype, [&](auto zero) { pack<decltype(zero)>(p, sum_inputs_of(*p.weight.format)); });
  }

  // Codes of one kind carry the same powers of two.
  static bool same(const Product& a, const Product& b) {
    return same_left(a, b) && &codec_of(*a.weight.format) == &codec_of(*b.weight.format);
  }

  // kChunkRow floats; the next row's follow.
  const float* row(int64_t chunk, int64_t row) const { return floats_.get() + at(chunk, row); }

 private:
  int64_t at(int64_t chunk, int64_t row) const { return (chunk * rows_ + row) * kChunkRow; }

  template <class T>
  void pack(const Product& p, int64_t sum_inputs) {
    parallel_for_chunks(p, [&](int64_t chunk) {
      for (int64_t row = 0; row < rows_; ++row) {
        alignas(64) float x[kChunk];
        load_chunk(static_cast<const T*>(p.left) + row * p.stride, p.weight.layout.inputs, chunk, x);
        pack_row(x, sum_inputs, floats_.get() + at(chunk, row));
      }
    });
  }

  void pack_row(const float* x, int64_t sum_inputs, float* to) const {
    for (int64_t unit = 0; unit < kChunk; unit += kInputs) {
      for (int64_t quad = 0; quad < kInputs; quad += 4) {
        for (int64_t byte = 0; byte < 4; ++byte) {
          to[unit + quad + byte] = x[unit + quad + packed::byte_of_input(byte)] * inverses_[quad + byte];
        }
      }
    }
    for (int64_t sum = 0; sum < kChunk / sum_inputs; ++sum) {
      Vec total = zero();
      for (int64_t i = 0; i < sum_inputs; i += kLanes) total = total + load(x + sum * sum_inputs + i);
      to[kChunk + sum] = -reduce_add(total);
    }
  }

  int64_t rows_;
  Scratch floats_;
  float inverses_[kInputs];
};

}  // namespace
}  // namespace pyllm::quantized_linear
