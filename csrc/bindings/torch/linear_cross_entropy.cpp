#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include <optional>
#include <stdexcept>
#include <tuple>

#include "bindings/torch/tensor.h"

namespace pyllm::binding {
namespace {

namespace lce = pyllm::linear_cross_entropy;

constexpr const char* kOp = "linear_cross_entropy";

// The arguments that both directions share, dense and checked; `problem` points into them.
struct Inputs {
  Tensor x, weight, target;
  std::optional<Tensor> bias, token_weight;
  lce::Problem problem;
};

std::optional<Tensor> dense_or_none(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(dense(*x)) : std::nullopt;
}

const void* pointer_or_null(const std::optional<Tensor>& x) { return x ? x->const_data_ptr() : nullptr; }

void check_inputs(const Tensor& x, const Tensor& weight, const Tensor& target,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& token_weight,
                  int64_t reduction) {
  check(x.dim() >= 1 && weight.dim() == 2 && weight.size(1) == x.size(x.dim() - 1) && weight.size(0) > 0, kOp,
        "weight must have shape (vocab, hidden) with hidden the size of x's last dimension");
  check_same_kind(x, weight, kOp, "weight");
  check(target.scalar_type() == ScalarType::Long && target.numel() == rows_of(x), kOp,
        "target must be int64 with one element per row of x");
  check(!token_weight ||
            (token_weight->scalar_type() == ScalarType::Double && token_weight->numel() == target.numel()),
        kOp, "token_weight must be float64 with one element per row of x");
  if (bias) {
    check(bias->dim() == 1 && bias->size(0) == weight.size(0), kOp, "bias must have shape (vocab,)");
    check_same_kind(x, *bias, kOp, "bias");
  }
  check(reduction >= 0 && reduction <= 2, kOp, "reduction must be 0, 1 or 2");
}

Inputs make_inputs(const Tensor& x, const Tensor& weight, const Tensor& target,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& token_weight,
                   int64_t ignore_index, double label_smoothing, double z_loss, double softcap,
                   double temperature, int64_t reduction) {
  check_inputs(x, weight, target, bias, token_weight, reduction);
  Inputs in = {dense(x), dense(weight), dense(target), dense_or_none(bias), dense_or_none(token_weight), {}};
  in.problem = {.dtype = dtype_of(x, kOp, "x"),
                .tokens = target.numel(),
                .hidden = weight.size(1),
                .vocab = weight.size(0),
                .x = in.x.const_data_ptr(),
                .weight = in.weight.const_data_ptr(),
                .bias = pointer_or_null(in.bias),
                .target = static_cast<const int64_t*>(in.target.const_data_ptr()),
                .token_weight = static_cast<const double*>(pointer_or_null(in.token_weight)),
                .ignore_index = ignore_index,
                .label_smoothing = label_smoothing,
                .z_loss = z_loss,
                .softcap = softcap,
                .temperature = temperature,
                .reduction = static_cast<lce::Reduction>(reduction)};
  const lce::Problem& p = in.problem;
  const int64_t bad = lce::first_bad_target(p.target, p.tokens, p.vocab, ignore_index);
  if (bad >= 0) {
    throw std::out_of_range("linear_cross_entropy: target must be in [0, " + std::to_string(p.vocab) +
                            ") or ignore_index, got " + std::to_string(p.target[bad]) + " at element " +
                            std::to_string(bad));
  }
  return in;
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& target,
                                                std::optional<Tensor> bias,
                                                std::optional<Tensor> token_weight, int64_t ignore_index,
                                                double label_smoothing, double z_loss, double softcap,
                                                double temperature, int64_t reduction, bool lse_everywhere) {
  const Inputs in = make_inputs(x, weight, target, bias, token_weight, ignore_index, label_smoothing, z_loss,
                                softcap, temperature, reduction);
  const bool per_token = in.problem.reduction == lce::Reduction::none;
  Tensor loss = empty(x, per_token ? shape_of(target) : std::vector<int64_t>{}, accumulator_type(x));
  Tensor lse = empty(x, shape_of(target), accumulator_type(x));
  lce::forward({.problem = in.problem,
                .lse_everywhere = lse_everywhere,
                .loss = loss.mutable_data_ptr(),
                .lse = lse.mutable_data_ptr()});
  return {loss, lse};
}

// A gradient like `of`, in float if `wide`, or an empty tensor where it is not wanted.
Tensor gradient_of(const Tensor& of, bool wanted, bool wide = false) {
  return empty(of, wanted ? shape_of(of) : std::vector<int64_t>{0},
               wide ? ScalarType::Float : of.scalar_type());
}

void* pointer_if(Tensor& gradient, bool wanted) { return wanted ? gradient.mutable_data_ptr() : nullptr; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_fused(
    const Tensor& x, const Tensor& weight, const Tensor& target, std::optional<Tensor> bias,
    std::optional<Tensor> token_weight, int64_t ignore_index, double label_smoothing, double z_loss,
    double softcap, double temperature, int64_t reduction, bool wants_x, bool wants_weight, bool wants_bias) {
  const Inputs in = make_inputs(x, weight, target, bias, token_weight, ignore_index, label_smoothing, z_loss,
                                softcap, temperature, reduction);
  check(in.problem.reduction != lce::Reduction::none, kOp, "the fused form needs a reduction");
  Tensor loss = empty(x, {}, accumulator_type(x)), lse = empty(x, shape_of(target), accumulator_type(x));
  Tensor grad_x = gradient_of(x, wants_x), grad_weight = gradient_of(weight, wants_weight);
  Tensor grad_bias = empty(x, {wants_bias ? weight.size(0) : 0});
  lce::forward_backward({.forward = {.problem = in.problem,
                                     .lse_everywhere = false,
                                     .loss = loss.mutable_data_ptr(),
                                     .lse = lse.mutable_data_ptr()},
                         .grad_x = pointer_if(grad_x, wants_x),
                         .grad_weight = pointer_if(grad_weight, wants_weight),
                         .grad_bias = pointer_if(grad_bias, wants_bias)});
  return {loss, lse, grad_x, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_loss_any, std::optional<Tensor> grad_lse_any, const Tensor& x, const Tensor& weight,
    const Tensor& target, std::optional<Tensor> bias, std::optional<Tensor> token_weight,
    const Tensor& lse_any, int64_t ignore_index, double label_smoothing, double z_loss, double softcap,
    double temperature, int64_t reduction, bool wants_x, bool wants_weight, bool wants_bias,
    bool wide_weight) {
  const Inputs in = make_inputs(x, weight, target, bias, token_weight, ignore_index, label_smoothing, z_loss,
                                softcap, temperature, reduction);
  const bool per_token = in.problem.reduction == lce::Reduction::none;
  const Tensor grad_loss = dense(grad_loss_any), lse = dense(lse_any);
  const std::optional<Tensor> grad_lse = dense_or_none(grad_lse_any);
  const auto holds = [&](const Tensor& t, int64_t count) {
    return t.scalar_type() == accumulator_type(x) && t.numel() == count;
  };
  check(holds(grad_loss, per_token ? target.numel() : 1), kOp, "grad_loss must be as loss");
  check(holds(lse, target.numel()) && (!grad_lse || holds(*grad_lse, target.numel())), kOp,
        "lse and grad_lse must hold one accumulator per row of x");
  check(!wide_weight || x.scalar_type() != ScalarType::Double, kOp, "wide_weight is for narrower weights");
  Tensor grad_x = gradient_of(x, wants_x), grad_weight = gradient_of(weight, wants_weight, wide_weight);
  Tensor grad_bias = empty(x, {wants_bias ? weight.size(0) : 0});
  lce::backward({.problem = in.problem,
                 .grad_loss = grad_loss.const_data_ptr(),
                 .grad_lse = pointer_or_null(grad_lse),
                 .lse = lse.const_data_ptr(),
                 .grad_x = pointer_if(grad_x, wants_x),
                 .grad_weight = pointer_if(grad_weight, wants_weight),
                 .grad_bias = pointer_if(grad_bias, wants_bias),
                 .wide_grad_weight = wide_weight});
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(
      "linear_cross_entropy(Tensor x, Tensor weight, Tensor target, Tensor? bias, Tensor? token_weight, "
      "int ignore_index, float label_smoothing, float z_loss, float softcap, float temperature, int "
      "reduction, "
      "bool lse_everywhere) -> (Tensor, Tensor)");
  m.def(
      "linear_cross_entropy_fused(Tensor x, Tensor weight, Tensor target, Tensor? bias, Tensor? "
      "token_weight, "
      "int ignore_index, float label_smoothing, float z_loss, float softcap, float temperature, int "
      "reduction, bool wants_x, bool wants_weight, bool wants_bias) -> (Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad_loss, Tensor? grad_lse, Tensor x, Tensor weight, "
      "Tensor target, Tensor? bias, Tensor? token_weight, Tensor lse, int ignore_index, "
      "float label_smoothing, float z_loss, float softcap, float temperature, int reduction, bool wants_x, "
      "bool wants_weight, bool wants_bias, bool wide_weight) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy));
  m.impl("linear_cross_entropy_fused", TORCH_BOX(&linear_cross_entropy_fused));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&linear_cross_entropy_backward));
}

}  // namespace pyllm::binding
