// A row of activations as signed bytes, by the definition in int8.h: used by the kernels and by their
// reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dtype.h"
#include "formats/packed_weight.h"

namespace pyllm::quantized_linear {
namespace {

// Inputs in the order of a unit's words; one scale and one sum for each unit.
struct ByteRow {
  explicit ByteRow(int64_t units)
      : bytes(static_cast<size_t>(units * packed::kInputs)),
        scales(static_cast<size_t>(units)),
        sums(scales.size() * 2) {}

  std::vector<int8_t> bytes;
  std::vector<float> scales;
  std::vector<int32_t> sums;  // of each half of a unit
};

template <class T>
void round_row(const T* x, int64_t inputs, bool whole_row, ByteRow& row) {
  using packed::kInputs;
  const int64_t units = static_cast<int64_t>(row.scales.size()), span = whole_row ? inputs : kInputs;
  for (int64_t first = 0; first < units * kInputs; first += span) {
    const int64_t end = std::min(inputs, first + span);
    float most = 0.0f;
    for (int64_t i = first; i < end; ++i) {
      const float magnitude = std::fabs(static_cast<float>(to_double(x[i])));
      most = magnitude > most || magnitude != magnitude ? magnitude : most;
    }
    const float scale = most / 127.0f, inverse = most > 0.0f ? 127.0f / most : 0.0f;
    const int64_t last_unit = whole_row ? units : first / kInputs + 1;
    for (int64_t unit = first / kInputs; unit < last_unit; ++unit) {
      row.scales[static_cast<size_t>(unit)] = scale;
      int32_t sums[2] = {};
      for (int64_t j = 0; j < kInputs; ++j) {
        const int64_t i = unit * kInputs + j;
        const float scaled = i < inputs ? static_cast<float>(to_double(x[i])) * inverse : 0.0f;
        // NaN and infinity make the scale NaN or infinite, which reaches every output; their byte does not
        // matter.
        const int8_t byte =
            std::fabs(scaled) <= 127.5f ? static_cast<int8_t>(std::nearbyint(scaled)) : int8_t{0};
        sums[j / 16] += byte;
        row.bytes[static_cast<size_t>(unit * kInputs + j / 4 * 4 + packed::byte_of_input(j % 4))] = byte;
      }
      row.sums[static_cast<size_t>(2 * unit)] = sums[0];
      row.sums[static_cast<size_t>(2 * unit + 1)] = sums[1];
    }
    if (whole_row) break;
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
