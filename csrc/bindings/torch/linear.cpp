#include "ops/linear/linear.h"

#include <optional>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "linear";

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

Tensor linear(const Tensor& x_any, const Tensor& weight_any, std::optional<Tensor> bias_any,
              bool float32_out) {
  check(x_any.dim() >= 1, kOp, "x must have at least one dimension");
  check(weight_any.dim() == 2 && weight_any.size(1) == x_any.size(x_any.dim() - 1), kOp,
        "weight must be (out, in) with in = the size of x's last dimension");
  check_same_dtype(x_any, weight_any, kOp, "weight");
  std::optional<Tensor> bias;
  if (bias_any) {
    check(bias_any->dim() == 1 && bias_any->size(0) == weight_any.size(0), kOp,
          "bias must have the size of weight's first dimension");
    check_same_dtype(x_any, *bias_any, kOp, "bias");
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
                          .out = out.mutable_data_ptr()});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, bool float32_out=False) -> Tensor");
  ;
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) { m.impl("linear", TORCH_BOX(&linear)); }

}  // namespace pyllm::binding
