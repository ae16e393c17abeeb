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

// Asked for, as codes are: the hardware follows one stream of codes, not those of scales beside it.
constexpr int64_t kSumsAhead = 2 * kChunkUnits;

// The scales of the sums of the chunk's `units` units, stored as T. What does not change is in locals: stores
// of vectors may alias anything.
template <class T>
[[maybe_unused]] void load_scales_as(const packed::Weight& weight, int64_t panel, int64_t chunk,
                                     int64_t units, ChunkScales& to) {
  const packed::Format& format = *weight.format;
  const packed::Layout& layout = weight.layout;
  const int64_t count = ceil_div(units * kInputs, sum_inputs_of(format));
  const int64_t first = format.group ? chunk * kChunk / format.group : 0;
  const bool nested = format.nested;
  const packed::Minimum kind = format.minimum;
  const int64_t outer = (panel * layout.scale_groups + (nested ? chunk : first)) * kOutputs;
  const int64_t inner = (panel * layout.groups + first) * kOutputs, outer_step = nested ? 0 : kOutputs;
  const T* scales = reinterpret_cast<const T*>(weight.data + layout.scales) + outer;
  const T* minimums = reinterpret_cast<const T*>(weight.data + layout.minimums) + outer;
  const uint8_t* subscales = weight.data + layout.subscales + inner;
  const uint8_t* subminimums = weight.data + layout.subminimums + inner;
  const bool plain = kind == packed::Minimum::plain;
  for (int64_t sum = 0; sum < count; ++sum) {
    if (!nested) __builtin_prefetch(scales + (sum + kSumsAhead) * kOutputs);
    if (plain) __builtin_prefetch(minimums + (sum + kSumsAhead) * kOutputs);
#pragma GCC unroll 4
    for (int64_t lane = 0; lane < kOutputs; lane += kLanes) {
      const int64_t at = sum * kOutputs + lane, outer_at = sum * outer_step + lane;
      Vec scale = load(scales + outer_at);
      if (nested) scale = scale * load_signed_bytes(subscales + at);
      store(to.scale[sum] + lane, scale);
      if (kind == packed::Minimum::none) continue;
      Vec minimum;
      if (kind == packed::Minimum::zeros) {
        minimum = scale * load_signed_bytes(subminimums + at);
      } else {
        minimum = load(minimums + outer_at);
        if (kind == packed::Minimum::nested) minimum = minimum * load_unsigned_bytes(subminimums + at);
      }
      store(to.minimum[sum] + lane, minimum);
    }
  }
}

[[maybe_unused]] inline void load_scales(const packed::Weight& weight, int64_t panel, int64_t chunk,
                                         int64_t units, ChunkScales& to) {
  switch (weight.format->scale) {
    case DType::f16:
      return load_scales_as<float16>(weight, panel, chunk, units, to);
    case DType::bf16:
      return load_scales_as<bfloat16>(weight, panel, chunk, units, to);
    default:
      return load_scales_as<float>(weight, panel, chunk, units, to);
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
