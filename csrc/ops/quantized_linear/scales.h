// Scales and minimums of a panel's 16 outputs for a chunk of inputs, from their stored form to floats: small
// beside the codes, so that kernels of codes know one form only.
#pragma once

#include "core/words.h"
#include "ops/quantized_linear/codec.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kVecs = kOutputs / kLanes;

// Panels for one row: four chains at least. Eight on AVX2 were 3% faster in cache and 5% slower out of it.
constexpr int kPanelsAtOnce = kVecs == 1 ? 2 : 1;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// Inputs of a sum: a group's, or a chunk's where all inputs share a scale.
[[maybe_unused]] inline int64_t sum_inputs_of(const packed::Format& format) {
  return format.group ? format.group : kChunk;
}

[[maybe_unused]] inline Scaling scaling_of(const packed::Format& format, const ChunkScales* scales) {
  return {.scales = scales,
          .center = static_cast<float>(format.center),
          .minimums = format.minimum != packed::Minimum::none,
          .sum_units = ceil_div(sum_inputs_of(format), kInputs)};
}

inline Vec load_scale(const uint8_t* array, DType type, int64_t i) {
  if (type == DType::f32) return load(reinterpret_cast<const float*>(array) + i);
  if (type == DType::f16) return load(reinterpret_cast<const float16*>(array) + i);
  return load(reinterpret_cast<const bfloat16*>(array) + i);
}

// The scales of the sums of the chunk's `units` units.
[[maybe_unused]] inline void load_scales(const packed::Weight& weight, int64_t panel, int64_t chunk,
                                         int64_t units, ChunkScales& to) {
  const packed::Format& format = *weight.format;
  const packed::Layout& layout = weight.layout;
  const int64_t count = ceil_div(units * kInputs, sum_inputs_of(format));
  const bool zeros = format.minimum == packed::Minimum::zeros;
  const int64_t first = format.group ? chunk * kChunk / format.group : 0;
  for (int64_t sum = 0; sum < count; ++sum) {
    const int64_t group = first + sum;
    const int64_t at = (panel * layout.groups + group) * kOutputs;
    const int64_t outer = (panel * layout.scale_groups + (format.nested ? chunk : group)) * kOutputs;
#pragma GCC unroll 4
    for (int64_t lane = 0; lane < kOutputs; lane += kLanes) {
      Vec scale = load_scale(weight.data + layout.scales, format.scale, outer + lane);
      if (format.nested) scale = scale * load_signed_bytes(weight.data + layout.subscales + at + lane);
      store(to.scale[sum] + lane, scale);
      if (format.minimum == packed::Minimum::none) continue;
      if (zeros) {
        store(to.minimum[sum] + lane,
              scale * load_signed_bytes(weight.data + layout.subminimums + at + lane));
        continue;
      }
      Vec minimum = load_scale(weight.data + layout.minimums, format.scale, outer + lane);
      if (format.minimum == packed::Minimum::nested) {
        minimum = minimum * load_unsigned_bytes(weight.data + layout.subminimums + at + lane);
      }
      store(to.minimum[sum] + lane, minimum);
    }
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
