#include "bindings/torch/tensor.h"
#include "formats/dequantize.h"
#include "formats/quantize.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "dequantize_gguf";

Tensor dequantize_gguf(const Tensor& blocks_any, std::string format_name, ScalarType dtype) {
  const gguf::Format* format = gguf::find_format(format_name);
  check(format != nullptr, kOp, "unknown format " + format_name);
  check(blocks_any.dim() == 1 && blocks_any.scalar_type() == ScalarType::Byte, kOp,
        "blocks must be uint8 bytes");
  check(blocks_any.numel() % format->bytes == 0, kOp, "blocks must hold whole blocks of " + format_name);
  const Tensor blocks = dense(blocks_any);
  const int64_t count = blocks.numel() / format->bytes;
  Tensor values = empty(blocks, {count * format->elements}, dtype);
  gguf::dequantize(*format, static_cast<const uint8_t*>(blocks.const_data_ptr()), count,
                   dtype_of(values, kOp, "dtype"), values.mutable_data_ptr());
  return values;
}

Tensor quantize_gguf(const Tensor& values_any, std::string format_name) {
  constexpr const char* kName = "quantize_gguf";
  const gguf::Quantizer* quantizer = gguf::find_quantizer(format_name);
  check(quantizer != nullptr, kName, "unknown format " + format_name);
  check(values_any.dim() == 1 && values_any.scalar_type() == ScalarType::Float, kName,
        "values must be float32 of one dimension");
  check(values_any.numel() % quantizer->elements == 0, kName,
        "values must fill whole blocks of " + format_name);
  const Tensor values = dense(values_any);
  const int64_t count = values.numel() / quantizer->elements;
  Tensor blocks = empty(values, {count * quantizer->bytes}, ScalarType::Byte);
  gguf::quantize(*quantizer, static_cast<const float*>(values.const_data_ptr()), count,
                 static_cast<uint8_t*>(blocks.mutable_data_ptr()));
  return blocks;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("dequantize_gguf(Tensor blocks, str format, ScalarType dtype) -> Tensor");
  m.def("quantize_gguf(Tensor values, str format) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("dequantize_gguf", TORCH_BOX(&dequantize_gguf));
  m.impl("quantize_gguf", TORCH_BOX(&quantize_gguf));
}

}  // namespace pyllm::binding
