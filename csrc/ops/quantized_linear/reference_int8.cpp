#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "formats/packed_row.h"
#include "ops/quantized_linear/int8.h"

namespace pyllm::quantized_linear {
namespace {

// A row of activations as signed bytes, in the order of a unit's words; one scale for each unit.
struct ByteRow {
  explicit ByteRow(int64_t units)
      : bytes(static_cast<size_t>(units * packed::kInputs)), scales(static_cast<size_t>(units)) {}

  std::vector<int8_t> bytes;
  std::vector<float> scales;
};

template <class T>
void round_row(const T* x, int64_t inputs, bool whole_row, ByteRow& row) {
  using packed::kInputs;
  const int64_t units = static_cast<int64_t>(row.scales.size()), span = whole_row ? inputs : kInputs;
  for (int64_t first = 0; first < units * kInputs; first += span) {
    const int64_t end = std::min(inputs, first + span);
    float most = 0.0f;
    bool finite = true;
    for (int64_t i = first; i < end; ++i) {
      const float magnitude = std::fabs(static_cast<float>(to_double(x[i])));
      finite = finite && std::isfinite(magnitude);
      most = std::max(most, magnitude);
    }
    if (!finite) most = std::numeric_limits<float>::quiet_NaN();
    const float scale = most / 127.0f, inverse = most > 0.0f ? 127.0f / most : 0.0f;
    const int64_t last_unit = whole_row ? units : first / kInputs + 1;
    for (int64_t unit = first / kInputs; unit < last_unit; ++unit) {
      row.scales[static_cast<size_t>(unit)] = scale;
      for (int64_t j = 0; j < kInputs; ++j) {
        const int64_t i = unit * kInputs + j;
        const float scaled = i < inputs ? static_cast<float>(to_double(x[i])) * inverse : 0.0f;
        // NaN and infinity make the scale NaN, which reaches every output; their byte does not matter.
        const int8_t byte = std::isfinite(scaled) ? static_cast<int8_t>(std::nearbyint(scaled)) : int8_t{0};
        row.bytes[static_cast<size_t>(unit * kInputs + j / 4 * 4 + packed::byte_of_input(j % 4))] = byte;
      }
    }
    if (whole_row) break;
  }
}

int integer_of(const packed::Format& format, uint8_t code) {
  if (format.values == packed::Values::table) return static_cast<int>(format.table[code]);
  return format.bits == 8 ? static_cast<int8_t>(code) : code;
}

float scale_at(const packed::Format& format, const packed::Row& row, int64_t group, int64_t outer) {
  const float scale = packed::number(row.scales.data(), format.scale, outer);
  return format.nested
             ? scale * static_cast<float>(static_cast<int8_t>(row.subscales[static_cast<size_t>(group)]))
             : scale;
}
float minimum_at(const packed::Format& format, const packed::Row& row, float scale, int64_t group,
                 int64_t outer) {
  if (format.minimum == packed::Minimum::zeros) {
    return scale * static_cast<float>(static_cast<int8_t>(row.subminimums[static_cast<size_t>(group)]));
  }
  const float minimum = packed::number(row.minimums.data(), format.scale, outer);
  if (format.minimum == packed::Minimum::plain) return minimum;
  return minimum * static_cast<float>(row.subminimums[static_cast<size_t>(group)]);
}

float dot(const packed::Weight& weight, const packed::Row& row, const ByteRow& x) {
  const packed::Format& format = *weight.format;
  const int64_t group_inputs = weight.group_inputs();
  const int64_t step = format.group == 0 ? kSpan : std::min(packed::kInputs, format.group);
  float y = 0.0f;
  for (int64_t first = 0; first < weight.layout.inputs; first += step) {
    int32_t sum = 0, total = 0;
    for (int64_t i = first; i < std::min(weight.layout.inputs, first + step); ++i) {
      const int32_t byte = x.bytes[static_cast<size_t>(i / 4 * 4 + packed::byte_of_input(i % 4))];
      sum += integer_of(format, row.codes[static_cast<size_t>(i)]) * byte;
      total += byte;
    }
    const int64_t group = first / group_inputs, outer = format.nested ? first / packed::kOuterGroup : group;
    const float scale_x = x.scales[static_cast<size_t>(first / packed::kInputs)];
    const float scale = scale_at(format, row, group, outer);
    y = std::fma(scale, scale_x * static_cast<float>(sum - total * format.center), y);
    if (format.minimum != packed::Minimum::none) {
      y = std::fma(minimum_at(format, row, scale, group, outer), -(scale_x * static_cast<float>(total)), y);
    }
  }
  return y;
}

template <class T>
void forward_int8_as(const Product& p) {
  const packed::Layout& layout = p.weight.layout;
  std::vector<ByteRow> rows(static_cast<size_t>(p.rows), ByteRow(layout.units));
  for (int64_t i = 0; i < p.rows; ++i) {
    round_row(static_cast<const T*>(p.left) + i * p.stride, layout.inputs, p.weight.format->group == 0,
              rows[static_cast<size_t>(i)]);
  }
  parallel_for(0, layout.outputs, 16, [&](int64_t begin, int64_t end) {
    packed::Row row(*p.weight.format, layout);
    for (int64_t output = begin; output < end; ++output) {
      load_row(p.weight, output, row);
      for (int64_t i = 0; i < p.rows; ++i) {
        float y = dot(p.weight, row, rows[static_cast<size_t>(i)]);
        if (p.bias) y += static_cast<float>(to_double(static_cast<const T*>(p.bias)[output]));
        static_cast<T*>(p.out)[i * layout.outputs + output] = from_double<T>(y);
      }
    }
  });
}

}  // namespace

bool has_int8(const packed::Format& format) {
  if (format.values == packed::Values::float8) return false;
  for (int64_t i = 0; format.table && i < packed::kMostCodes; ++i) {
    if (format.table[i] != std::nearbyint(format.table[i]) || std::fabs(format.table[i]) > 127.0f)
      return false;
  }
  return true;
}

void forward_int8_scalar(const Product* products, int64_t count) {
  for (const Product* p = products; p < products + count; ++p) {
    visit(p->dtype, [&](auto zero) { forward_int8_as<decltype(zero)>(*p); });
  }
}

}  // namespace pyllm::quantized_linear
