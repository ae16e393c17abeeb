#include "bindings/torch/tensor.h"
#include "formats/dequantize.h"

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

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("dequantize_gguf(Tensor blocks, str format, ScalarType dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) { m.impl("dequantize_gguf", TORCH_BOX(&dequantize_gguf)); }

}  // namespace pyllm::binding
