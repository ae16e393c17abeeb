#include "formats/packed_row.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace pyllm::packed {
namespace {

// The planes of a unit for one output, from its first word on; its next word lies 16 words further.
struct Plane {
  int64_t offset;
  int bits, below;  // of a code, and its bits in the planes before

  int quads() const { return 8 / bits; }  // in a word
  int64_t word(int64_t quad) const { return offset + quad / quads() * kOutputs * 4; }
  int shift(int64_t quad) const { return static_cast<int>(quad % quads()) * bits; }
  uint32_t mask() const { return 0x01010101u * ((1u << bits) - 1); }
};

// f(plane) for each plane of a unit.
template <class F>
void for_each_plane(const Format& format, const Layout& layout, int64_t output, int64_t unit, const F& f) {
  const Planes planes = planes_of(format.bits);
  const int64_t index = output / kOutputs * layout.units + unit, lane = output % kOutputs * 4;
  const int64_t start = layout.codes + index * kOutputs * kInputs * format.bits / 8 + lane;
  f(Plane{start, planes.low, 0});
  if (planes.high) f(Plane{start + kOutputs * kInputs * planes.low / 8, planes.high, planes.low});
}

// The four codes of a quad as the bytes of its word, and back: neighbours lie 16 bits apart.
uint32_t exchange_middle(uint32_t quad) {
  return (quad & 0xff0000ffu) | (quad >> 8 & 0x0000ff00u) | (quad << 8 & 0x00ff0000u);
}

uint32_t load_word(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, 4);
  return word;
}

// Widths are constants, so that the compiler unrolls the loops: packing a file is most of the time of loading
// it.
template <int kBits>
void store_plane(const uint32_t (&quads)[kQuads], int below, uint8_t* words) {
  constexpr int kOfWord = 8 / kBits;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);
  for (int v = 0; v < kQuads / kOfWord; ++v) {
    uint32_t word = 0;
    for (int i = 0; i < kOfWord; ++i) word |= (quads[v * kOfWord + i] >> below & kMask) << i * kBits;
    std::memcpy(words + v * kOutputs * 4, &word, 4);
  }
}

// Elements of kSize bytes to where those of the outputs beside stand between them.
template <int kSize>
void store_part(const uint8_t* part, int64_t elements, uint8_t* first) {
  for (int64_t i = 0; i < elements; ++i) std::memcpy(first + i * kOutputs * kSize, part + i * kSize, kSize);
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
  for (int64_t unit = 0; unit < layout.units; ++unit) {
    uint8_t codes[kInputs] = {};
    const int64_t count = std::min(kInputs, layout.inputs - unit * kInputs);
    const uint8_t* const from = row.codes.data() + unit * kInputs;
    std::memcpy(codes, from, count == kInputs ? kInputs : static_cast<size_t>(count));
    uint32_t quads[kQuads];
    for (int64_t q = 0; q < kQuads; ++q) quads[q] = exchange_middle(load_word(codes + 4 * q));
    for_each_plane(format, layout, output, unit, [&](const Plane& plane) {
      uint8_t* const words = data + plane.offset;
      if (plane.bits == 8) store_plane<8>(quads, plane.below, words);
      if (plane.bits == 4) store_plane<4>(quads, plane.below, words);
      if (plane.bits == 2) store_plane<2>(quads, plane.below, words);
      if (plane.bits == 1) store_plane<1>(quads, plane.below, words);
    });
  }
  for_each_part(format, layout, row, [&](const auto& part, int64_t offset, int64_t size, int64_t elements) {
    if (part.empty()) return;
    uint8_t* const first = data + offset + element(output, elements, 0) * size;
    if (size == 1) store_part<1>(part.data(), elements, first);
    if (size == 2) store_part<2>(part.data(), elements, first);
    if (size == 4) store_part<4>(part.data(), elements, first);
  });
}

void load_row(const Weight& weight, int64_t output, Row& row) {
  const Format& format = *weight.format;
  const Layout& layout = weight.layout;
  for (int64_t unit = 0; unit < layout.units; ++unit) {
    uint32_t quads[kQuads] = {};
    for_each_plane(format, layout, output, unit, [&](const Plane& plane) {
      for (int64_t q = 0; q < kQuads; ++q) {
        const uint32_t word = load_word(weight.data + plane.word(q));
        quads[q] |= (word >> plane.shift(q) & plane.mask()) << plane.below;
      }
    });
    for (uint32_t& quad : quads) quad = exchange_middle(quad);
    const int64_t count = std::min(kInputs, layout.inputs - unit * kInputs);
    std::memcpy(row.codes.data() + unit * kInputs, quads, static_cast<size_t>(count));
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
