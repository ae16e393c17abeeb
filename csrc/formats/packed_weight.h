// The layout in which quantized weights are computed with: one for every bit width, made once from a file's
// blocks or from plain codes and scales (pack.h), read by kernels of one row and of many.
//
// A weight (out, in) is cut into units of 16 outputs x 32 inputs, which is also a tile of AMX. A panel is 16
// outputs and all its units in ascending order of inputs, so that a kernel reads straight through.
//
//   codes        panel, unit:  planes of bits, the low bits of all codes first: 8 | 4+2 | 4+1 | 4 | 2+1 | 2
//   scales       panel, group of inputs, output
//   subscales    the same; scales are then one per 256 inputs, and a group's scale is their product
//   minimums     as scales;  subminimums  as subscales;  zeros  as subscales
//
// A plane of b bits holds b words of 32 bits for each output, word by word 16 outputs side by side. A byte of
// a word belongs to one input in four, a quad:
//
//   word v                quads v * 8 / b ...
//   byte of the word      0   1   2   3
//   input of quad q       4q  +2  +1  +3        even inputs in the low half of the word, odd ones in the high
//   quad q of the word    at bits b * q, b * q + 1 ... of each byte
//
// so that a shift and a mask give four codes of every output as bytes (VNNI, AMX int8), and halves of words
// are pairs of neighbours (AMX bf16).
//
// value = scale * (code - center) - minimum, in float and in this order, or scale * table[code].
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace pyllm::packed {

constexpr int64_t kOutputs = 16;  // of a panel
constexpr int64_t kInputs = 32;   // of a unit
constexpr int64_t kQuads = kInputs / 4;
constexpr int64_t kOuterGroup = 256;  // inputs under one scale where there are subscales
constexpr int64_t kMostCodes = 16;    // of a table

enum class Values {
  integers,  // code - center; codes of 8 bits are signed
  table,     // of up to 16 floats
  float8,    // e4m3, no infinities
};
enum class Minimum {
  none,
  plain,   // of the type of scales
  nested,  // a minimum per 256 inputs times an unsigned byte per group
  zeros,   // scale * zero, the zero a signed byte per group
};

struct Format {
  const char* name;
  int bits;
  Values values;
  int center;
  const float* table;
  int64_t group;  // inputs that share a scale; 0: all of them
  DType scale;    // f32, f16 or bf16
  bool nested;    // subscales, signed bytes
  Minimum minimum;
};

// Null if there is no such format.
const Format* find_format(const std::string& name);

// Names of all formats, separated by commas.
std::string format_names();

// Where things lie in the packed bytes; offsets are multiples of 64.
struct Layout {
  int64_t outputs = 0, inputs = 0;
  int64_t panels = 0, units = 0;  // units of a panel
  int64_t groups = 0;             // of all inputs
  int64_t scale_groups = 0;       // groups, or stretches of 256 inputs where there are subscales
  int64_t codes = 0, scales = 0, subscales = 0, minimums = 0, subminimums = 0;
  int64_t bytes = 0;
};

Layout layout_of(const Format& format, int64_t outputs, int64_t inputs);

struct Weight {
  const Format* format;
  Layout layout;
  const uint8_t* data;

  int64_t unit_bytes() const { return kOutputs * kInputs * format->bits / 8; }
  const uint8_t* unit(int64_t panel, int64_t index) const {
    return data + layout.codes + (panel * layout.units + index) * unit_bytes();
  }
  int64_t group_inputs() const { return format->group ? format->group : layout.inputs; }
};

// Bits of the two planes of a width: {4, 2} of 6; {4, 0} of 4.
struct Planes {
  int low, high;
};
constexpr Planes planes_of(int bits) {
  if (bits == 8) return {8, 0};
  return bits >= 4 ? Planes{4, bits - 4} : Planes{2, bits - 2};
}

// The byte of a quad's word that holds its j-th input.
constexpr int64_t byte_of_input(int64_t j) { return j == 1 ? 2 : j == 2 ? 1 : j; }

}  // namespace pyllm::packed
