#include "ops/adamw/adamw.h"

#include <optional>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "adamw_step_";

void check_state(const Tensor& param, const Tensor& state, const char* argument) {
  check_same_shape(param, state, kOp, argument);
  check(state.is_contiguous(), kOp, std::string(argument) + " must be contiguous");
  check(state.scalar_type() == accumulator_type(param), kOp,
        std::string(argument) + " must have the accumulator dtype of param");
}

void adamw_step_(Tensor param, const Tensor& grad_any, Tensor exp_avg, Tensor exp_avg_sq,
                 std::optional<Tensor> master, double lr, double beta1, double beta2, double eps,
                 double weight_decay, int64_t step, double grad_scale) {
  check(param.is_contiguous(), kOp, "param must be contiguous");
  check_same_shape(param, grad_any, kOp, "grad");
  check_same_dtype(param, grad_any, kOp, "grad");
  check_state(param, exp_avg, "exp_avg");
  check_state(param, exp_avg_sq, "exp_avg_sq");
  if (master) check_state(param, *master, "master");
  check(step >= 1, kOp, "step must be at least 1");
  const Tensor grad = dense(grad_any);
  pyllm::adamw::step({.dtype = dtype_of(param, kOp, "param"),
                      .count = param.numel(),
                      .param = param.mutable_data_ptr(),
                      .grad = grad.const_data_ptr(),
                      .exp_avg = exp_avg.mutable_data_ptr(),
                      .exp_avg_sq = exp_avg_sq.mutable_data_ptr(),
                      .master = master ? master->mutable_data_ptr() : nullptr,
                      .lr = lr,
                      .beta1 = beta1,
                      .beta2 = beta2,
                      .eps = eps,
                      .weight_decay = weight_decay,
                      .grad_scale = grad_scale,
                      .step = step});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(
      "adamw_step_(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, "
      "Tensor(d!)? master, float lr, float beta1, float beta2, float eps, float weight_decay, int step, "
      "float grad_scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) { m.impl("adamw_step_", TORCH_BOX(&adamw_step_)); }

}  // namespace pyllm::binding
