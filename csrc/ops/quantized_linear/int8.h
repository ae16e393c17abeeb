// The same product with activations rounded to signed bytes: asked for by name, because it changes results.
//
//   weights with scales for groups   activations share a scale for each 32 inputs
//   weights with a scale per output  activations of a row share one ("W8A8": a scale per token and per
//   output)
//
//   scale of x = max |x| / 127,   q = x / scale to the nearest even; 0 where all are 0, NaN where one is not
//   finite
//   out = sum over spans of scale of weight * (scale of x * sum of (code - center) * q)
//                           - minimum * scale of x * sum of q
//
// A span is 32 inputs (16 where scales belong to 16), or kSpan where the weight has a scale per output: sums
// of products are integers and exact, so they are the same at every level. Spans ascend. Formats: integers,
// and tables of integers.
#pragma once

#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::quantized_linear {

constexpr int64_t kSpan = int64_t{1} << 16;  // 128 * 127 * kSpan fits 31 bits

using Int8Forward = void (*)(const Product* products, int64_t count);

// p.weight's format stands for integers.
bool has_int8(const packed::Format& format);

void forward_int8(const Product* products, int64_t count);
inline void forward_int8(const Product& p) { forward_int8(&p, 1); }
void forward_int8_scalar(const Product* products, int64_t count);

}  // namespace pyllm::quantized_linear
