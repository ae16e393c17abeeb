#include "ops/adamw/adamw.h"

#include <vector>

#include "bindings/torch/device.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "adamw_step_";

void check_state(const Tensor& param, const Tensor& state, const char* argument) {
  check_same_shape(param, state, kOp, argument);
  check(state.is_contiguous(), kOp, std::string(argument) + " must be contiguous");
  check(state.scalar_type() == accumulator_type(param), kOp,
        std::string(argument) + " must have the accumulator dtype of param");
}

using Tensors = std::vector<Tensor>;

void check_lengths(const Tensors& params, size_t length, const char* argument) {
  check(length == params.size(), kOp, std::string(argument) + " must have one entry per param");
}

void check_entry(const Tensor& param, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  check(param.is_contiguous(), kOp, "param must be contiguous");
  check_same_shape(param, grad, kOp, "grad");
  check_same_kind(param, grad, kOp, "grad");
  check_state(param, exp_avg, "exp_avg");
  check_state(param, exp_avg_sq, "exp_avg_sq");
}

// masters and rounding_seeds are empty or have an entry for every param.
void adamw_step_(Tensors params, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors masters,
                 std::vector<int64_t> steps, std::vector<int64_t> rounding_seeds, double lr, double beta1,
                 double beta2, double eps, double weight_decay, double grad_scale) {
  check_lengths(params, grads.size(), "grads");
  check_lengths(params, exp_avgs.size(), "exp_avgs");
  check_lengths(params, exp_avg_sqs.size(), "exp_avg_sqs");
  check_lengths(params, steps.size(), "steps");
  if (!masters.empty()) check_lengths(params, masters.size(), "masters");
  if (!rounding_seeds.empty()) check_lengths(params, rounding_seeds.size(), "rounding_seeds");
  if (params.empty()) return;
  OnDevice device(kOp, {&params[0]});
  for (const Tensors* tensors : {&params, &grads, &exp_avgs, &exp_avg_sqs, &masters})
    device.take(kOp, *tensors);
  std::vector<pyllm::adamw::Step> work;
  for (size_t i = 0; i < params.size(); ++i) {
    check_entry(params[i], grads[i], exp_avgs[i], exp_avg_sqs[i]);
    if (!masters.empty()) check_state(params[i], masters[i], "master");
    check(steps[i] >= 1, kOp, "steps must be at least 1");
    grads[i] = dense(grads[i]);
    work.push_back({.dtype = dtype_of(params[i], kOp, "param"),
                    .count = params[i].numel(),
                    .param = params[i].mutable_data_ptr(),
                    .grad = grads[i].const_data_ptr(),
                    .exp_avg = exp_avgs[i].mutable_data_ptr(),
                    .exp_avg_sq = exp_avg_sqs[i].mutable_data_ptr(),
                    .master = masters.empty() ? nullptr : masters[i].mutable_data_ptr(),
                    .lr = lr,
                    .beta1 = beta1,
                    .beta2 = beta2,
                    .eps = eps,
                    .weight_decay = weight_decay,
                    .grad_scale = grad_scale,
                    .step = steps[i],
                    .stochastic = !rounding_seeds.empty(),
                    .seed = rounding_seeds.empty() ? 0 : static_cast<uint64_t>(rounding_seeds[i])});
  }
  pyllm::adamw::run(work.data(), static_cast<int64_t>(work.size()));
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def(
      "adamw_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] masters, int[] steps, int[] rounding_seeds, float lr, float beta1, float beta2, "
      "float eps, float weight_decay, float grad_scale) -> ()");
}

PYLLM_KERNELS(m) { m.impl("adamw_step_", TORCH_BOX(&adamw_step_)); }

}  // namespace pyllm::binding
