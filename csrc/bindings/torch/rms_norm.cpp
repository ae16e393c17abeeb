#include "ops/rms_norm/rms_norm.h"

#include <optional>
#include <tuple>

#include "bindings/torch/device.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "rms_norm";

void check_inputs(const Tensor& x, const Tensor& weight) {
  check(x.dim() >= 1, kOp, "x must have at least one dimension");
  check(weight.dim() == 1 && weight.size(0) == x.size(x.dim() - 1), kOp,
        "weight must have the size of x's last dimension");
  check_same_kind(x, weight, kOp, "weight");
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x_any, const Tensor& weight_any, double eps,
                                    double weight_offset) {
  check_inputs(x_any, weight_any);
  const OnDevice device(kOp, {&x_any, &weight_any});
  const Tensor x = dense(x_any), weight = dense(weight_any);
  Tensor y = empty(x, shape_of(x));
  Tensor rstd = empty(x, {rows_of(x)}, accumulator_type(x));
  pyllm::rms_norm::forward({.dtype = dtype_of(x, kOp, "x"),
                            .rows = rows_of(x),
                            .columns = weight.size(0),
                            .x = x.const_data_ptr(),
                            .residual = nullptr,
                            .weight = weight.const_data_ptr(),
                            .y = y.mutable_data_ptr(),
                            .residual_out = nullptr,
                            .rstd = rstd.mutable_data_ptr(),
                            .eps = eps,
                            .weight_offset = weight_offset});
  return {y, rstd};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x_any, const Tensor& residual_any,
                                                const Tensor& weight_any, double eps, double weight_offset) {
  check_inputs(x_any, weight_any);
  check_same_shape(x_any, residual_any, kOp, "residual");
  check_same_kind(x_any, residual_any, kOp, "residual");
  const OnDevice device(kOp, {&x_any, &residual_any, &weight_any});
  const Tensor x = dense(x_any), residual = dense(residual_any), weight = dense(weight_any);
  Tensor y = empty(x, shape_of(x)), residual_out = empty(x, shape_of(x));
  Tensor rstd = empty(x, {rows_of(x)}, accumulator_type(x));
  pyllm::rms_norm::forward({.dtype = dtype_of(x, kOp, "x"),
                            .rows = rows_of(x),
                            .columns = weight.size(0),
                            .x = x.const_data_ptr(),
                            .residual = residual.const_data_ptr(),
                            .weight = weight.const_data_ptr(),
                            .y = y.mutable_data_ptr(),
                            .residual_out = residual_out.mutable_data_ptr(),
                            .rstd = rstd.mutable_data_ptr(),
                            .eps = eps,
                            .weight_offset = weight_offset});
  return {y, residual_out, rstd};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_y_any,
                                             std::optional<Tensor> grad_residual_any, const Tensor& h_any,
                                             const Tensor& weight_any, const Tensor& rstd_any,
                                             double weight_offset) {
  check_inputs(h_any, weight_any);
  check_same_shape(h_any, grad_y_any, kOp, "grad_y");
  check_same_kind(h_any, grad_y_any, kOp, "grad_y");
  check(rstd_any.numel() == rows_of(h_any) && rstd_any.scalar_type() == accumulator_type(h_any), kOp,
        "rstd must hold one accumulator per row");
  const OnDevice device(kOp, {&h_any, &grad_y_any, &weight_any, &rstd_any, address(grad_residual_any)});
  const Tensor grad_y = dense(grad_y_any), h = dense(h_any), weight = dense(weight_any);
  const Tensor rstd = dense(rstd_any);
  std::optional<Tensor> grad_residual;
  if (grad_residual_any) {
    check_same_shape(h, *grad_residual_any, kOp, "grad_residual_out");
    check_same_kind(h, *grad_residual_any, kOp, "grad_residual_out");
    grad_residual = dense(*grad_residual_any);
  }
  Tensor grad_x = empty(h, shape_of(h)), grad_weight = empty(h, {weight.size(0)});
  pyllm::rms_norm::backward({.dtype = dtype_of(h, kOp, "h"),
                             .rows = rows_of(h),
                             .columns = weight.size(0),
                             .grad_y = grad_y.const_data_ptr(),
                             .grad_residual_out = grad_residual ? grad_residual->const_data_ptr() : nullptr,
                             .h = h.const_data_ptr(),
                             .weight = weight.const_data_ptr(),
                             .rstd = rstd.const_data_ptr(),
                             .grad_x = grad_x.mutable_data_ptr(),
                             .grad_weight = grad_weight.mutable_data_ptr(),
                             .weight_offset = weight_offset});
  return {grad_x, grad_weight};
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps, float weight_offset) -> (Tensor, Tensor)");
  m.def(
      "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps, float weight_offset) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "rms_norm_backward(Tensor grad_y, Tensor? grad_residual_out, Tensor h, Tensor weight, Tensor rstd, "
      "float weight_offset) -> (Tensor, Tensor)");
}

PYLLM_KERNELS(m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
}

}  // namespace pyllm::binding
