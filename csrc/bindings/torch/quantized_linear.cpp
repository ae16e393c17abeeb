#include "ops/quantized_linear/quantized_linear.h"

#include <cstring>
#include <optional>

#include "bindings/torch/packed_arguments.h"
#include "formats/pack.h"
#include "ops/quantized_linear/int8.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "quantized_linear";
constexpr const char* kGrad = "quantized_linear_grad";
constexpr const char* kPack = "quantized_pack";
constexpr const char* kPackRows = "quantized_pack_rows";
constexpr const char* kPackedBytes = "quantized_packed_bytes";
constexpr const char* kUnpack = "quantized_unpack";

Tensor zero_bytes(int64_t bytes) {
  Tensor data = empty({bytes}, code_of(ScalarType::Byte), aoti_torch_device_type_cpu(), 0);
  std::memset(data.mutable_data_ptr(), 0, static_cast<size_t>(bytes));
  return data;
}

ScalarType scalar_type_of(DType dtype) {
  if (dtype == DType::f32) return ScalarType::Float;
  return dtype == DType::f16 ? ScalarType::Half : ScalarType::BFloat16;
}

Tensor pack(const Tensor& codes_any, const Tensor& scales_any, std::optional<Tensor> zeros_any,
            std::string format_name) {
  const packed::Format& format = format_of(format_name, kPack);
  check(!format.nested && format.minimum != packed::Minimum::plain, kPack,
        "format " + format_name + " has parts that only its blocks hold");
  check(codes_any.dim() == 2 && codes_any.scalar_type() == ScalarType::Byte, kPack,
        "codes must be (out, in) bytes");
  const packed::Layout layout = packed_layout_of(format, codes_any.size(0), codes_any.size(1), kPack);
  const auto fits = [&](const Tensor& x, ScalarType type) {
    return x.dim() == 2 && x.size(0) == layout.outputs && x.size(1) == layout.groups &&
           x.scalar_type() == type;
  };
  check(fits(scales_any, scalar_type_of(format.scale)), kPack,
        "scales must be (out, groups of in) of the format's scale type");
  const bool wants_zeros = format.minimum == packed::Minimum::zeros;
  check(wants_zeros == zeros_any.has_value() && (!wants_zeros || fits(*zeros_any, ScalarType::Char)), kPack,
        "zeros must be (out, groups of in) signed bytes where the format has them, otherwise absent");
  const Tensor codes = dense(codes_any), scales = dense(scales_any);
  std::optional<Tensor> zeros;
  if (zeros_any) zeros = dense(*zeros_any);
  Tensor data = zero_bytes(layout.bytes);
  packed::pack_codes(format, layout,
                     {static_cast<const uint8_t*>(codes.const_data_ptr()),
                      static_cast<const uint8_t*>(scales.const_data_ptr()),
                      zeros ? static_cast<const uint8_t*>(zeros->const_data_ptr()) : nullptr},
                     static_cast<uint8_t*>(data.mutable_data_ptr()));
  return data;
}

int64_t packed_bytes(std::string format_name, int64_t outputs, int64_t inputs) {
  return packed_layout_of(format_of(format_name, kPackedBytes), outputs, inputs, kPackedBytes).bytes;
}

void pack_rows(Tensor data, const Tensor& blocks_any, std::string format_name, int64_t outputs,
               int64_t inputs, int64_t first) {
  const packed::Weight weight = weight_of(data, format_name, outputs, inputs, kPackRows);
  check(packed::has_blocks(*weight.format), kPackRows, "format " + format_name + " is not one of GGUF's");
  const int64_t row_bytes = packed::block_row_bytes(*weight.format, inputs);
  check(row_bytes > 0 || inputs == 0, kPackRows, "rows must be whole blocks of " + format_name);
  const int64_t bytes = blocks_any.numel(), count = row_bytes ? bytes / row_bytes : 0;
  check(blocks_any.dim() == 1 && blocks_any.scalar_type() == ScalarType::Byte && bytes == count * row_bytes &&
            first >= 0 && first <= outputs && count <= outputs - first,
        kPackRows, "blocks must be the bytes of whole rows of the weight");
  const Tensor blocks = dense(blocks_any);
  packed::pack_blocks(*weight.format, weight.layout, static_cast<const uint8_t*>(blocks.const_data_ptr()),
                      first, count, static_cast<uint8_t*>(data.mutable_data_ptr()));
}

Tensor unpack(const Tensor& data, std::string format_name, int64_t outputs, int64_t inputs,
              ScalarType dtype) {
  const packed::Weight weight = weight_of(data, format_name, outputs, inputs, kUnpack);
  Tensor values = empty(data, {outputs, inputs}, dtype);
  packed::unpack(weight, 0, outputs, dtype_of(values, kUnpack, "dtype"), values.mutable_data_ptr());
  return values;
}

// Matrices with contiguous rows are read in place, anything else from a contiguous copy.
Tensor readable(const Tensor& x) {
  return x.dim() == 2 && x.stride(1) == 1 && x.stride(0) >= x.size(1) ? x : dense(x);
}

Tensor product_of(const Tensor& x_any, const Tensor& data, const std::optional<Tensor>& bias_any,
                  const std::string& format, int64_t outputs, bool int8) {
  check(x_any.dim() >= 1, kOp, "x must have at least one dimension");
  check_same_device(x_any, data, kOp, "weight");
  const int64_t inputs = x_any.size(x_any.dim() - 1);
  const packed::Weight weight = weight_of(data, format, outputs, inputs, kOp);
  std::optional<Tensor> bias;
  if (bias_any) {
    check(bias_any->dim() == 1 && bias_any->size(0) == outputs, kOp, "bias must have one value per output");
    check_same_kind(x_any, *bias_any, kOp, "bias");
    bias = dense(*bias_any);
  }
  const Tensor x = readable(x_any);
  std::vector<int64_t> shape = shape_of(x);
  shape.back() = outputs;
  Tensor out = empty(x, shape);
  check(!int8 || pyllm::quantized_linear::has_int8(*weight.format), kOp,
        "format " + format + " has no integers");
  const pyllm::quantized_linear::Product product = {.dtype = dtype_of(x, kOp, "x"),
                                                    .rows = rows_of(x),
                                                    .left = x.const_data_ptr(),
                                                    .stride = x.dim() == 2 ? x.stride(0) : inputs,
                                                    .weight = weight,
                                                    .bias = bias ? bias->const_data_ptr() : nullptr,
                                                    .out = out.mutable_data_ptr()};
  int8 ? pyllm::quantized_linear::forward_int8(product) : pyllm::quantized_linear::forward(product);
  return out;
}

Tensor quantized_linear(const Tensor& x, const Tensor& data, std::optional<Tensor> bias, std::string format,
                        int64_t outputs) {
  return product_of(x, data, bias, format, outputs, false);
}

Tensor quantized_linear_int8(const Tensor& x, const Tensor& data, std::optional<Tensor> bias,
                             std::string format, int64_t outputs) {
  return product_of(x, data, bias, format, outputs, true);
}

Tensor quantized_linear_grad(const Tensor& grad_any, const Tensor& data, std::string format, int64_t inputs) {
  check(grad_any.dim() >= 1, kGrad, "grad_y must have at least one dimension");
  check_same_device(grad_any, data, kGrad, "weight");
  const int64_t outputs = grad_any.size(grad_any.dim() - 1);
  const packed::Weight weight = weight_of(data, format, outputs, inputs, kGrad);
  const Tensor grad = readable(grad_any);
  std::vector<int64_t> shape = shape_of(grad);
  shape.back() = inputs;
  Tensor out = empty(grad, shape);
  pyllm::quantized_linear::grad_x({.dtype = dtype_of(grad, kGrad, "grad_y"),
                                   .rows = rows_of(grad),
                                   .left = grad.const_data_ptr(),
                                   .stride = grad.dim() == 2 ? grad.stride(0) : outputs,
                                   .weight = weight,
                                   .bias = nullptr,
                                   .out = out.mutable_data_ptr()});
  return out;
}

std::string quantized_formats() { return packed::format_names(); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("quantized_formats() -> str");
  m.def("quantized_pack(Tensor codes, Tensor scales, Tensor? zeros, str format) -> Tensor");
  m.def("quantized_packed_bytes(str format, int outputs, int inputs) -> int");
  m.def(
      "quantized_pack_rows(Tensor(a!) data, Tensor blocks, str format, int outputs, int inputs, int first) "
      "-> ()");
  m.def("quantized_unpack(Tensor data, str format, int outputs, int inputs, ScalarType dtype) -> Tensor");
  m.def("quantized_linear(Tensor x, Tensor data, Tensor? bias, str format, int outputs) -> Tensor");
  m.def("quantized_linear_int8(Tensor x, Tensor data, Tensor? bias, str format, int outputs) -> Tensor");
  m.def("quantized_linear_grad(Tensor grad_y, Tensor data, str format, int inputs) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CompositeExplicitAutograd, m) {
  m.impl("quantized_formats", TORCH_BOX(&quantized_formats));
  m.impl("quantized_packed_bytes", TORCH_BOX(&packed_bytes));
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("quantized_pack", TORCH_BOX(&pack));
  m.impl("quantized_pack_rows", TORCH_BOX(&pack_rows));
  m.impl("quantized_unpack", TORCH_BOX(&unpack));
  m.impl("quantized_linear", TORCH_BOX(&quantized_linear));
  m.impl("quantized_linear_int8", TORCH_BOX(&quantized_linear_int8));
  m.impl("quantized_linear_grad", TORCH_BOX(&quantized_linear_grad));
}

}  // namespace pyllm::binding
