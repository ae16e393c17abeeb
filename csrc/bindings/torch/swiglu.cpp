#include "ops/swiglu/swiglu.h"

#include <tuple>

#include "bindings/torch/activation_argument.h"
#include "bindings/torch/device.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "glu";

void check_like(const Tensor& gate, const Tensor& other, const char* argument) {
  check_same_shape(gate, other, kOp, argument);
  check_same_kind(gate, other, kOp, argument);
}

// Last dimension; 1 for a scalar.
int64_t columns_of(const Tensor& x) { return x.dim() == 0 ? 1 : x.size(x.dim() - 1); }

// x itself if its rows lie at one stride with unit stride inside, otherwise a contiguous copy.
Tensor regular(const Tensor& x) {
  if (x.is_contiguous()) return x;
  bool one_stride = x.dim() >= 2 && x.stride(x.dim() - 1) == 1;
  for (int64_t i = 0; one_stride && i + 2 < x.dim(); ++i) {
    one_stride = x.stride(i) == x.stride(i + 1) * x.size(i + 1);
  }
  return one_stride ? x : torch::stable::contiguous(x);
}

pyllm::swiglu::Input input(const Tensor& x) {
  return {.data = x.const_data_ptr(),
          .row_stride = x.is_contiguous() ? columns_of(x) : x.stride(x.dim() - 2)};
}

// `up` is null for a plain activation, whose backward returns (grad_x, activation(x)).
Tensor forward(const Tensor& gate_any, const Tensor* up_any, const std::string& activation) {
  const OnDevice device(kOp, {&gate_any, up_any});
  const Tensor gate = regular(gate_any);
  const Tensor up = up_any ? regular(*up_any) : gate;
  Tensor out = empty(gate, shape_of(gate));
  pyllm::swiglu::forward({.dtype = dtype_of(gate, kOp, "gate"),
                          .activation = activation_of(activation, kOp),
                          .rows = rows_of(gate),
                          .columns = columns_of(gate),
                          .gate = input(gate),
                          .up = up_any ? input(up) : pyllm::swiglu::Input{},
                          .out = out.mutable_data_ptr()});
  return out;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_any, const Tensor& gate_any, const Tensor* up_any,
                                    const std::string& activation) {
  check_like(gate_any, grad_any, "grad_out");
  const OnDevice device(kOp, {&gate_any, &grad_any, up_any});
  const Tensor grad_out = regular(grad_any), gate = regular(gate_any);
  const Tensor up = up_any ? regular(*up_any) : gate;
  Tensor grad_gate = empty(gate, shape_of(gate)), grad_up = empty(gate, shape_of(gate));
  pyllm::swiglu::backward({.dtype = dtype_of(gate, kOp, "gate"),
                           .activation = activation_of(activation, kOp),
                           .rows = rows_of(gate),
                           .columns = columns_of(gate),
                           .grad_out = input(grad_out),
                           .gate = input(gate),
                           .up = up_any ? input(up) : pyllm::swiglu::Input{},
                           .grad_gate = grad_gate.mutable_data_ptr(),
                           .grad_up = grad_up.mutable_data_ptr()});
  return {grad_gate, grad_up};
}

Tensor glu(const Tensor& gate, const Tensor& up, std::string activation) {
  check_like(gate, up, "up");
  return forward(gate, &up, activation);
}

std::tuple<Tensor, Tensor> glu_backward(const Tensor& grad_out, const Tensor& gate, const Tensor& up,
                                        std::string activation) {
  check_like(gate, up, "up");
  return backward(grad_out, gate, &up, activation);
}

Tensor activate(const Tensor& x, std::string activation) { return forward(x, nullptr, activation); }

std::tuple<Tensor, Tensor> activate_backward(const Tensor& grad_out, const Tensor& x,
                                             std::string activation) {
  return backward(grad_out, x, nullptr, activation);
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def("activate(Tensor x, str activation) -> Tensor");
  m.def("activate_backward(Tensor grad_out, Tensor x, str activation) -> (Tensor, Tensor)");
  m.def("glu(Tensor gate, Tensor up, str activation) -> Tensor");
  m.def("glu_backward(Tensor grad_out, Tensor gate, Tensor up, str activation) -> (Tensor, Tensor)");
}

PYLLM_KERNELS(m) {
  m.impl("activate", TORCH_BOX(&activate));
  m.impl("activate_backward", TORCH_BOX(&activate_backward));
  m.impl("glu", TORCH_BOX(&glu));
  m.impl("glu_backward", TORCH_BOX(&glu_backward));
}

}  // namespace pyllm::binding
