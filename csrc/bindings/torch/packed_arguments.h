// Packed bytes of a quantized weight, as the ops that multiply by them take them.
#pragma once

#include "bindings/torch/tensor.h"
#include "formats/packed_weight.h"

namespace pyllm::binding {

inline const packed::Format& format_of(const std::string& name, const char* op) {
  const packed::Format* format = packed::find_format(name);
  check(format != nullptr, op, "unknown format " + name);
  return *format;
}

inline packed::Layout packed_layout_of(const packed::Format& format, int64_t outputs, int64_t inputs,
                                       const char* op) {
  // Bounds that keep every size and offset below far from overflow.
  constexpr int64_t kMost = int64_t{1} << 40;
  check(outputs >= 0 && inputs >= 0 && outputs < kMost && inputs < kMost &&
            (inputs == 0 || outputs <= kMost / inputs),
        op, "the weight's shape must be two sizes of a tensor");
  return packed::layout_of(format, outputs, inputs);
}

inline packed::Weight weight_of(const Tensor& data, const std::string& format_name, int64_t outputs,
                                int64_t inputs, const char* op) {
  const packed::Format& format = format_of(format_name, op);
  const packed::Layout layout = packed_layout_of(format, outputs, inputs, op);
  check(data.dim() == 1 && data.scalar_type() == ScalarType::Byte && data.is_contiguous() &&
            data.numel() == layout.bytes,
        op, "data must be the packed bytes of a weight of this format and shape");
  return {&format, layout, static_cast<const uint8_t*>(data.const_data_ptr())};
}

}  // namespace pyllm::binding
