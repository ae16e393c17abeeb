// Scales and minimums of a panel's 16 outputs for a chunk of inputs, from their stored form to floats: small
// beside the codes, so that kernels of codes know one form only.
#pragma once

#include "ops/quantized_linear/unpack.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kChunkUnits = 8;
constexpr int64_t kChunk = kChunkUnits * kInputs;  // inputs
constexpr int64_t kChunkSums = 2 * kChunkUnits;    // at most: a sum has 32 inputs or 16

static_assert(kChunk == packed::kOuterGroup);

struct ChunkScales {
  alignas(64) float scale[kChunkSums][kOutputs];
  alignas(64) float minimum[kChunkSums][kOutputs];
};

inline Vec load_scale(const uint8_t* array, DType type, int64_t i) {
  if (type == DType::f32) return load(reinterpret_cast<const float*>(array) + i);
  if (type == DType::f16) return load(reinterpret_cast<const float16*>(array) + i);
  return load(reinterpret_cast<const bfloat16*>(array) + i);
}

// The scales of sums [0, count) of `sum_inputs` inputs each, from the chunk's first input on.
[[maybe_unused]] inline void load_scales(const packed::Weight& weight, int64_t panel, int64_t chunk,
                                         int64_t sum_inputs, int64_t count, ChunkScales& to) {
  const packed::Format& format = *weight.format;
  const packed::Layout& layout = weight.layout;
  const int64_t group_inputs = weight.group_inputs(), first = chunk * kChunk;
  const bool zeros = format.minimum == packed::Minimum::zeros;
  for (int64_t sum = 0; sum < count; ++sum) {
    const int64_t group = (first + sum * sum_inputs) / group_inputs;
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
