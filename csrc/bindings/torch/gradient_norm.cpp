#include "ops/gradient_norm/gradient_norm.h"

#include <cmath>
#include <vector>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "gradient_norm";

Tensor gradient_norm(std::vector<Tensor> grads) {
  check(!grads.empty(), kOp, "grads must hold a tensor");
  double total = 0;
  for (const Tensor& grad_any : grads) {
    const Tensor grad = dense(grad_any);
    total += pyllm::gradient_norm::sum_of_squares(dtype_of(grad, kOp, "grads"), grad.const_data_ptr(),
                                                  grad.numel());
  }
  Tensor norm = empty(grads[0], {}, accumulator_type(grads[0]));
  if (norm.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(norm.mutable_data_ptr()) = std::sqrt(total);
  } else {
    *static_cast<float*>(norm.mutable_data_ptr()) = static_cast<float>(std::sqrt(total));
  }
  return norm;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) { m.def("gradient_norm(Tensor[] grads) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) { m.impl("gradient_norm", TORCH_BOX(&gradient_norm)); }

}  // namespace pyllm::binding
