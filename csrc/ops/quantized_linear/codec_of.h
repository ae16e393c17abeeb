// Which kind of code a format has.
#pragma once

#include "core/levels.h"
#include "ops/quantized_linear/codec.h"

namespace pyllm::quantized_linear {

// Compiled in portable_<kind>.cpp.
extern const Codec PYLLM_LEVEL_TABLE(codec_nibbles), PYLLM_LEVEL_TABLE(codec_nibbles_of_bytes),
    PYLLM_LEVEL_TABLE(codec_nibbles_of_floats), PYLLM_LEVEL_TABLE(codec_bits2),
    PYLLM_LEVEL_TABLE(codec_bits3), PYLLM_LEVEL_TABLE(codec_bits5), PYLLM_LEVEL_TABLE(codec_bits6),
    PYLLM_LEVEL_TABLE(codec_bytes), PYLLM_LEVEL_TABLE(codec_float8);

namespace {

Table table_of(const packed::Format& format) {
  Table table = {format.table, {}};
  for (int64_t i = 0; format.table && i < packed::kMostCodes; ++i) {
    const float value = format.table[i];
    table.bytes[i] = value >= -128.0f && value <= 127.0f ? static_cast<int8_t>(value) : int8_t{0};
  }
  return table;
}

bool is_table_of_bytes(const packed::Format& format) {
  const Table table = table_of(format);
  for (int64_t i = 0; i < packed::kMostCodes; ++i) {
    if (static_cast<float>(table.bytes[i]) != format.table[i]) return false;
  }
  return true;
}

const Codec& codec_of(const packed::Format& format) {
  if (format.values == packed::Values::float8) return PYLLM_LEVEL_TABLE(codec_float8);
  if (format.values == packed::Values::table) {
    return is_table_of_bytes(format) ? PYLLM_LEVEL_TABLE(codec_nibbles_of_bytes)
                                     : PYLLM_LEVEL_TABLE(codec_nibbles_of_floats);
  }
  switch (format.bits) {
    case 2:
      return PYLLM_LEVEL_TABLE(codec_bits2);
    case 3:
      return PYLLM_LEVEL_TABLE(codec_bits3);
    case 4:
      return PYLLM_LEVEL_TABLE(codec_nibbles);
    case 5:
      return PYLLM_LEVEL_TABLE(codec_bits5);
    case 6:
      return PYLLM_LEVEL_TABLE(codec_bits6);
    default:
      return PYLLM_LEVEL_TABLE(codec_bytes);
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
