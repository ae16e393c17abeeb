// One output's row of a packed weight (packed_weight.h), taken apart: what is written into the layout and
// read back from it. The definition of a format's values stands here.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/packed_weight.h"

namespace pyllm::packed {

// Codes one byte each; scales and minimums as stored, `size_of(format.scale)` bytes each.
struct Row {
  Row(const Format& format, const Layout& layout);

  std::vector<uint8_t> codes, scales, subscales, minimums, subminimums;
};

void store_row(const Format& format, const Layout& layout, int64_t output, const Row& row, uint8_t* data);
void load_row(const Weight& weight, int64_t output, Row& row);

// (inputs) floats, computed as the format defines them.
void row_values(const Format& format, const Layout& layout, const Row& row, float* values);

// Element i of an array of `type`.
float number(const uint8_t* array, DType type, int64_t i);

float float8_value(uint8_t bits);

}  // namespace pyllm::packed
