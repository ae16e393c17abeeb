#include "ops/sample/sample.h"

#include <stdexcept>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "sample";

void check_rows(const Tensor& logits, const Tensor& numbers, const char* argument) {
  check(numbers.scalar_type() == ScalarType::Long && numbers.numel() == rows_of(logits), kOp,
        std::string(argument) + " must be int64 with one element per row of logits");
}

Tensor sample(const Tensor& logits_any, double temperature, int64_t top_k, double top_p, double min_p,
              const Tensor& seed_any, const Tensor& position_any) {
  check(logits_any.dim() >= 1 && logits_any.size(logits_any.dim() - 1) > 0, kOp,
        "logits must have shape (..., vocab) with vocab > 0");
  check(temperature >= 0 && top_k >= 0 && top_p >= 0 && min_p <= 1, kOp,
        "temperature, top_k and top_p must not be negative, and min_p at most 1");
  check_rows(logits_any, seed_any, "seed");
  check_rows(logits_any, position_any, "position");
  const Tensor logits = dense(logits_any), seed = dense(seed_any), position = dense(position_any);
  std::vector<int64_t> shape = shape_of(logits);
  const int64_t vocab = shape.back();
  shape.pop_back();
  Tensor token = empty(logits, shape, ScalarType::Long);
  const int64_t bad =
      pyllm::sample::sample({.dtype = dtype_of(logits, kOp, "logits"),
                             .rows = token.numel(),
                             .vocab = vocab,
                             .logits = logits.const_data_ptr(),
                             .temperature = temperature,
                             .top_k = top_k,
                             .top_p = top_p,
                             .min_p = min_p,
                             .seed = static_cast<const int64_t*>(seed.const_data_ptr()),
                             .position = static_cast<const int64_t*>(position.const_data_ptr()),
                             .token = static_cast<int64_t*>(token.mutable_data_ptr())});
  if (bad >= 0) {
    throw std::invalid_argument("sample: logits must hold no NaN and a value above -inf in every row, row " +
                                std::to_string(bad) + " does not");
  }
  return token;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(
      "sample(Tensor logits, float temperature, int top_k, float top_p, float min_p, Tensor seed, "
      "Tensor position) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) { m.impl("sample", TORCH_BOX(&sample)); }

}  // namespace pyllm::binding
