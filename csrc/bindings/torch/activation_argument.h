// The name of an activation.
#pragma once

#include "bindings/torch/tensor.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::binding {

inline swiglu::Activation activation_of(const std::string& name, const char* op) {
  if (name == "silu") return swiglu::Activation::silu;
  if (name == "gelu") return swiglu::Activation::gelu;
  check(name == "gelu_tanh", op, "activation must be silu, gelu or gelu_tanh");
  return swiglu::Activation::gelu_tanh;
}

}  // namespace pyllm::binding
