#include <vector>

#include "bindings/torch/device.h"
#include "ops/gradient_norm/cuda.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "gradient_norm";

Tensor gradient_norm(std::vector<Tensor> grads) {
  check(!grads.empty(), kOp, "grads must hold a tensor");
  OnDevice device(kOp, {&grads[0]});
  device.take(kOp, grads);
  std::vector<pyllm::gradient_norm::Input> inputs;
  for (Tensor& grad : grads) {
    check(grad.scalar_type() != ScalarType::Double, kOp, "on CUDA grads must not be float64");
    grad = dense(grad);
    inputs.push_back({dtype_of(grad, kOp, "grads"), grad.const_data_ptr(), grad.numel()});
  }
  Tensor norm = empty(grads[0], {}, ScalarType::Float);
  pyllm::gradient_norm::norm(inputs.data(), static_cast<int64_t>(inputs.size()),
                             static_cast<float*>(norm.mutable_data_ptr()));
  return norm;
}

}  // namespace

PYLLM_SCHEMAS(m) { m.def("gradient_norm(Tensor[] grads) -> Tensor"); }

PYLLM_KERNELS(m) { m.impl("gradient_norm", TORCH_BOX(&gradient_norm)); }

}  // namespace pyllm::binding
