#include "ops/linear/linear.h"

#include <optional>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "linear";
constexpr const char* kPack = "linear_pack";

// Matrices with one unit stride are read in place, anything else from a contiguous copy.
Tensor readable(const Tensor& x) {
  return x.dim() == 2 && (x.stride(0) == 1 || x.stride(1) == 1) ? x : dense(x);
}

// `x` as rows of its last dimension.
pyllm::linear::Operand operand(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return {.data = x.const_data_ptr(),
          .stride = x.dim() == 2 ? x.stride(0) : x.size(last),
          .stride_k = x.dim() == 2 ? x.stride(1) : 1};
}

// `packed` is what linear_pack made of the weight, or nothing.
Tensor product_of(const Tensor& x_any, const Tensor& weight_any, const std::optional<Tensor>& bias_any,
                  bool float32_out, const Tensor* packed) {
  check(x_any.dim() >= 1, kOp, "x must have at least one dimension");
  check(weight_any.dim() == 2 && weight_any.size(1) == x_any.size(x_any.dim() - 1), kOp,
        "weight must be (out, in) with in = the size of x's last dimension");
  check_same_kind(x_any, weight_any, kOp, "weight");
  std::optional<Tensor> bias;
  if (bias_any) {
    check(bias_any->dim() == 1 && bias_any->size(0) == weight_any.size(0), kOp,
          "bias must have the size of weight's first dimension");
    check_same_kind(x_any, *bias_any, kOp, "bias");
    bias = dense(*bias_any);
  }
  const Tensor x = readable(x_any), weight = readable(weight_any);
  std::vector<int64_t> shape = shape_of(x);
  shape.back() = weight.size(0);
  const DType dtype = dtype_of(x, kOp, "x");
  check(!float32_out || dtype != DType::f64, kOp, "float32_out does not go with float64");
  Tensor out = float32_out ? empty(x, shape, ScalarType::Float) : empty(x, shape);
  pyllm::linear::product({.dtype = dtype,
                          .out_dtype = float32_out ? DType::f32 : dtype,
                          .rows = rows_of(x),
                          .columns = weight.size(0),
                          .depth = weight.size(1),
                          .left = operand(x),
                          .right = operand(weight),
                          .bias = bias ? bias->const_data_ptr() : nullptr,
                          .out = out.mutable_data_ptr(),
                          .packed = packed ? static_cast<const float*>(packed->const_data_ptr()) : nullptr});
  return out;
}

Tensor linear(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, bool float32_out) {
  return product_of(x, weight, bias, float32_out, nullptr);
}

Tensor linear_pack(const Tensor& weight_any) {
  check(weight_any.dim() == 2, kPack, "weight must be (out, in)");
  const Tensor weight = readable(weight_any);
  const int64_t columns = weight.size(0), depth = weight.size(1);
  const DType dtype = dtype_of(weight, kPack, "weight");
  const int64_t floats = pyllm::linear::packed_floats(dtype, operand(weight), columns, depth);
  Tensor packed = empty(weight, {floats}, ScalarType::Float);
  if (floats) {
    pyllm::linear::pack(operand(weight), columns, depth, static_cast<float*>(packed.mutable_data_ptr()));
  }
  return packed;
}

Tensor linear_packed(const Tensor& x, const Tensor& weight_any, const Tensor& packed,
                     std::optional<Tensor> bias) {
  check(weight_any.dim() == 2, kOp, "weight must be (out, in)");
  const Tensor weight = readable(weight_any);
  const int64_t floats = pyllm::linear::packed_floats(dtype_of(weight, kOp, "weight"), operand(weight),
                                                      weight.size(0), weight.size(1));
  // A pack of another size was made at another level: it is passed over, like all that do not fit.
  const bool fits = floats > 0 && packed.is_contiguous() && packed.numel() == floats &&
                    packed.scalar_type() == ScalarType::Float;
  return product_of(x, weight, bias, false, fits ? &packed : nullptr);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, bool float32_out=False) -> Tensor");
  m.def("linear_pack(Tensor weight) -> Tensor");
  m.def("linear_packed(Tensor x, Tensor weight, Tensor packed, Tensor? bias) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_pack", TORCH_BOX(&linear_pack));
  m.impl("linear_packed", TORCH_BOX(&linear_packed));
}

}  // namespace pyllm::binding
