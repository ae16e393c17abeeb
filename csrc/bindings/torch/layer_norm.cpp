#include "ops/layer_norm/layer_norm.h"

#include <optional>
#include <tuple>

#include "bindings/torch/device.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "layer_norm";

void check_columns(const Tensor& x, const Tensor& parameter, const char* argument) {
  if (parameter.dim() != 1 || parameter.size(0) != x.size(x.dim() - 1)) {
    check(false, kOp, std::string(argument) + " must have the size of x's last dimension");
  }
  check_same_kind(x, parameter, kOp, argument);
}

void check_inputs(const Tensor& x, const Tensor& weight) {
  check(x.dim() >= 1, kOp, "x must have at least one dimension");
  check_columns(x, weight, "weight");
}

const void* data_or_null(const std::optional<Tensor>& x) { return x ? x->const_data_ptr() : nullptr; }

// y, mean and rstd; h goes to residual_out, if there is one.
std::tuple<Tensor, Tensor, Tensor> run_forward(const Tensor& x_any, const std::optional<Tensor>& residual,
                                               const Tensor& weight_any,
                                               const std::optional<Tensor>& bias_any, double eps,
                                               Tensor* residual_out) {
  const Tensor x = dense(x_any), weight = dense(weight_any);
  std::optional<Tensor> bias;
  if (bias_any) {
    check_columns(x, *bias_any, "bias");
    bias = dense(*bias_any);
  }
  Tensor y = empty(x, shape_of(x));
  Tensor mean = empty(x, {rows_of(x)}, accumulator_type(x)),
         rstd = empty(x, {rows_of(x)}, accumulator_type(x));
  pyllm::layer_norm::forward({.dtype = dtype_of(x, kOp, "x"),
                              .rows = rows_of(x),
                              .columns = weight.size(0),
                              .x = x.const_data_ptr(),
                              .residual = data_or_null(residual),
                              .weight = weight.const_data_ptr(),
                              .bias = data_or_null(bias),
                              .y = y.mutable_data_ptr(),
                              .residual_out = residual_out ? residual_out->mutable_data_ptr() : nullptr,
                              .mean = mean.mutable_data_ptr(),
                              .rstd = rstd.mutable_data_ptr(),
                              .eps = eps});
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& x, const Tensor& weight,
                                              std::optional<Tensor> bias, double eps) {
  check_inputs(x, weight);
  const OnDevice device(kOp, {&x, &weight, address(bias)});
  return run_forward(x, std::nullopt, weight, bias, eps, nullptr);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual,
                                                          const Tensor& weight, std::optional<Tensor> bias,
                                                          double eps) {
  check_inputs(x, weight);
  check_same_shape(x, residual, kOp, "residual");
  check_same_kind(x, residual, kOp, "residual");
  const OnDevice device(kOp, {&x, &residual, &weight, address(bias)});
  Tensor residual_out = empty(x, shape_of(x));
  const auto [y, mean, rstd] = run_forward(x, dense(residual), weight, bias, eps, &residual_out);
  return {y, residual_out, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& grad_y_any,
                                                       std::optional<Tensor> grad_residual_any,
                                                       const Tensor& h_any, const Tensor& weight_any,
                                                       const Tensor& mean_any, const Tensor& rstd_any) {
  check_inputs(h_any, weight_any);
  check_same_shape(h_any, grad_y_any, kOp, "grad_y");
  check_same_kind(h_any, grad_y_any, kOp, "grad_y");
  for (const Tensor& kept : {mean_any, rstd_any}) {
    check(kept.numel() == rows_of(h_any) && kept.scalar_type() == accumulator_type(h_any), kOp,
          "mean and rstd must hold one accumulator per row");
  }
  const OnDevice device(kOp,
                        {&h_any, &grad_y_any, &weight_any, &mean_any, &rstd_any, address(grad_residual_any)});
  const Tensor grad_y = dense(grad_y_any), h = dense(h_any), weight = dense(weight_any);
  const Tensor mean = dense(mean_any), rstd = dense(rstd_any);
  std::optional<Tensor> grad_residual;
  if (grad_residual_any) {
    check_same_shape(h, *grad_residual_any, kOp, "grad_residual_out");
    check_same_kind(h, *grad_residual_any, kOp, "grad_residual_out");
    grad_residual = dense(*grad_residual_any);
  }
  Tensor grad_x = empty(h, shape_of(h));
  Tensor grad_weight = empty(h, {weight.size(0)}), grad_bias = empty(h, {weight.size(0)});
  pyllm::layer_norm::backward({.dtype = dtype_of(h, kOp, "h"),
                               .rows = rows_of(h),
                               .columns = weight.size(0),
                               .grad_y = grad_y.const_data_ptr(),
                               .grad_residual_out = data_or_null(grad_residual),
                               .h = h.const_data_ptr(),
                               .weight = weight.const_data_ptr(),
                               .mean = mean.const_data_ptr(),
                               .rstd = rstd.const_data_ptr(),
                               .grad_x = grad_x.mutable_data_ptr(),
                               .grad_weight = grad_weight.mutable_data_ptr(),
                               .grad_bias = grad_bias.mutable_data_ptr()});
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def("layer_norm(Tensor x, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor? bias, float eps) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_backward(Tensor grad_y, Tensor? grad_residual_out, Tensor h, Tensor weight, Tensor mean, "
      "Tensor rstd) -> (Tensor, Tensor, Tensor)");
}

PYLLM_KERNELS(m) {
  m.impl("layer_norm", TORCH_BOX(&layer_norm));
  m.impl("add_layer_norm", TORCH_BOX(&add_layer_norm));
  m.impl("layer_norm_backward", TORCH_BOX(&layer_norm_backward));
}

}  // namespace pyllm::binding
