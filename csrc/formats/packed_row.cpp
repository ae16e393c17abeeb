#include "formats/packed_row.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace pyllm::packed {
namespace {

// Where the code of `input` lies in its unit: a plane of `bits`, from `plane` on.
struct Place {
  int64_t byte;
  int shift;
};
Place place_of(int64_t input, int64_t output, int bits) {
  const int64_t quad = input % kInputs / 4, quads_per_word = 8 / bits;
  const int64_t word = quad / quads_per_word * kOutputs + output % kOutputs;
  return {word * 4 + byte_of_input(input % 4), static_cast<int>(quad % quads_per_word) * bits};
}

// f(byte, shift, bits of the code below the plane, bits of the plane) for each plane of one input's code.
template <class F>
void for_each_plane(const Format& format, const Layout& layout, int64_t output, int64_t input, const F& f) {
  const Planes planes = planes_of(format.bits);
  const int64_t unit = output / kOutputs * layout.units + input / kInputs;
  const int64_t plane = layout.codes + unit * kOutputs * kInputs * format.bits / 8;
  const Place low = place_of(input, output, planes.low);
  f(plane + low.byte, low.shift, 0, planes.low);
  if (planes.high) {
    const Place high = place_of(input, output, planes.high);
    f(plane + kOutputs * kInputs * planes.low / 8 + high.byte, high.shift, planes.low, planes.high);
  }
}

// f(part of the row, its offset in the data, bytes of an element, elements of a row)
template <class RowType, class F>
void for_each_part(const Format& format, const Layout& layout, RowType& row, const F& f) {
  const int64_t size = size_of(format.scale);
  f(row.scales, layout.scales, size, layout.scale_groups);
  f(row.subscales, layout.subscales, int64_t{1}, layout.groups);
  f(row.minimums, layout.minimums, size, layout.scale_groups);
  f(row.subminimums, layout.subminimums, int64_t{1}, layout.groups);
}

// Where element `i` of a row's part lies, in elements.
int64_t element(int64_t output, int64_t elements, int64_t i) {
  return (output / kOutputs * elements + i) * kOutputs + output % kOutputs;
}

int integer_of(const Format& format, uint8_t code) {
  return (format.bits == 8 ? static_cast<int8_t>(code) : code) - format.center;
}

}  // namespace

Row::Row(const Format& format, const Layout& layout) : codes(static_cast<size_t>(layout.inputs)) {
  const size_t groups = static_cast<size_t>(layout.groups);
  const size_t bytes = static_cast<size_t>(layout.scale_groups * size_of(format.scale));
  scales.resize(bytes);
  subscales.resize(format.nested ? groups : 0);
  minimums.resize(format.minimum == Minimum::plain || format.minimum == Minimum::nested ? bytes : 0);
  subminimums.resize(format.minimum == Minimum::zeros || format.minimum == Minimum::nested ? groups : 0);
}

void store_row(const Format& format, const Layout& layout, int64_t output, const Row& row, uint8_t* data) {
  for (int64_t input = 0; input < layout.inputs; ++input) {
    const int code = row.codes[static_cast<size_t>(input)];
    for_each_plane(format, layout, output, input, [&](int64_t byte, int shift, int below, int bits) {
      data[byte] |= static_cast<uint8_t>((code >> below & ((1 << bits) - 1)) << shift);
    });
  }
  for_each_part(format, layout, row, [&](const auto& part, int64_t offset, int64_t size, int64_t elements) {
    for (int64_t i = 0; i < elements && !part.empty(); ++i) {
      std::memcpy(data + offset + element(output, elements, i) * size, part.data() + i * size,
                  static_cast<size_t>(size));
    }
  });
}

void load_row(const Weight& weight, int64_t output, Row& row) {
  const Format& format = *weight.format;
  const Layout& layout = weight.layout;
  for (int64_t input = 0; input < layout.inputs; ++input) {
    int code = 0;
    for_each_plane(format, layout, output, input, [&](int64_t byte, int shift, int below, int bits) {
      code |= (weight.data[byte] >> shift & ((1 << bits) - 1)) << below;
    });
    row.codes[static_cast<size_t>(input)] = static_cast<uint8_t>(code);
  }
  for_each_part(format, layout, row, [&](auto& part, int64_t offset, int64_t size, int64_t elements) {
    for (int64_t i = 0; i < elements && !part.empty(); ++i) {
      std::memcpy(part.data() + i * size, weight.data + offset + element(output, elements, i) * size,
                  static_cast<size_t>(size));
    }
  });
}

float number(const uint8_t* array, DType type, int64_t i) {
  if (type == DType::f32) {
    float value;
    std::memcpy(&value, array + i * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, array + i * 2, 2);
  return type == DType::f16 ? to_accumulator(float16{bits}) : to_accumulator(bfloat16{bits});
}

float float8_value(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent ? std::ldexp(static_cast<float>(8 + mantissa), exponent - 10)
                                   : std::ldexp(static_cast<float>(mantissa), -9);
  return bits & 0x80 ? -magnitude : magnitude;
}

void row_values(const Format& format, const Layout& layout, const Row& row, float* values) {
  const int64_t group_inputs = format.group ? format.group : layout.inputs;
  for (int64_t input = 0; input < layout.inputs; ++input) {
    const uint8_t code = row.codes[static_cast<size_t>(input)];
    const int64_t group = input / group_inputs, outer = format.nested ? input / kOuterGroup : group;
    float scale = number(row.scales.data(), format.scale, outer);
    if (format.nested)
      scale *= static_cast<float>(static_cast<int8_t>(row.subscales[static_cast<size_t>(group)]));
    if (format.values == Values::table) {
      values[input] = scale * format.table[code];
      continue;
    }
    if (format.values == Values::float8) {
      values[input] = scale * float8_value(code);
      continue;
    }
    int integer = integer_of(format, code);
    if (format.minimum == Minimum::zeros) {
      integer -= static_cast<int8_t>(row.subminimums[static_cast<size_t>(group)]);
    }
    values[input] = scale * static_cast<float>(integer);
    if (format.minimum == Minimum::plain || format.minimum == Minimum::nested) {
      float minimum = number(row.minimums.data(), format.scale, outer);
      if (format.minimum == Minimum::nested) {
        minimum *= static_cast<float>(row.subminimums[static_cast<size_t>(group)]);
      }
      values[input] -= minimum;
    }
  }
}

}  // namespace pyllm::packed
