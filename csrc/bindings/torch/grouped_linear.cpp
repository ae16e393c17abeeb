#include "ops/grouped_linear/grouped_linear.h"

#include "bindings/torch/packed_arguments.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "grouped_linear";
constexpr const char* kWeight = "grouped_linear_grad_weight";
constexpr const char* kQuantized = "grouped_quantized_linear";
constexpr const char* kQuantizedGrad = "grouped_quantized_linear_grad";

// Checked offsets, as they lie in memory.
pyllm::grouped_linear::Groups groups_of(const Tensor& offsets, int64_t rows, const char* op) {
  check(offsets.dim() == 1 && offsets.numel() >= 2 && offsets.scalar_type() == ScalarType::Long &&
            offsets.is_contiguous(),
        op, "offsets must be (experts + 1,) contiguous int64, at least one expert");
  const auto* data = static_cast<const int64_t*>(offsets.const_data_ptr());
  const int64_t experts = offsets.numel() - 1;
  check(data[0] == 0 && data[experts] == rows && std::is_sorted(data, data + experts + 1), op,
        "offsets must ascend from 0 to the number of rows");
  return {experts, data};
}

// Rows or columns contiguous: read in place, anything else from a contiguous copy.
bool has_unit_stride(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return x.stride(last) == 1 || x.stride(last - 1) == 1;
}
Tensor readable(const Tensor& x) { return has_unit_stride(x) ? x : dense(x); }

Tensor grouped_linear(const Tensor& x_any, const Tensor& weights_any, const Tensor& offsets) {
  check(x_any.dim() == 2 && weights_any.dim() == 3 && weights_any.size(2) == x_any.size(1), kOp,
        "x must be (rows, in) and weights (experts, out, in)");
  check_same_kind(x_any, weights_any, kOp, "weights");
  const auto groups = groups_of(offsets, x_any.size(0), kOp);
  check(groups.experts == weights_any.size(0), kOp,
        "offsets must have one entry more than there are experts");
  const Tensor x = readable(x_any), weights = readable(weights_any);
  Tensor out = empty(x, {x.size(0), weights.size(1)});
  pyllm::grouped_linear::product({.dtype = dtype_of(x, kOp, "x"),
                                  .groups = groups,
                                  .columns = weights.size(1),
                                  .depth = weights.size(2),
                                  .left = {x.const_data_ptr(), x.stride(0), x.stride(1)},
                                  .right = {weights.const_data_ptr(), weights.stride(1), weights.stride(2)},
                                  .expert_stride = weights.stride(0),
                                  .out = out.mutable_data_ptr()});
  return out;
}

Tensor grouped_linear_grad_weight(const Tensor& grad_any, const Tensor& x_any, const Tensor& offsets) {
  check(grad_any.dim() == 2 && x_any.dim() == 2 && grad_any.size(0) == x_any.size(0), kWeight,
        "grad_y must be (rows, out) and x (rows, in)");
  check_same_kind(grad_any, x_any, kWeight, "x");
  const auto groups = groups_of(offsets, x_any.size(0), kWeight);
  const Tensor grad = dense(grad_any), x = dense(x_any);
  Tensor out = empty(x, {groups.experts, grad.size(1), x.size(1)});
  pyllm::grouped_linear::grad_weight({.dtype = dtype_of(x, kWeight, "x"),
                                      .groups = groups,
                                      .outputs = grad.size(1),
                                      .inputs = x.size(1),
                                      .grad_y = grad.const_data_ptr(),
                                      .x = x.const_data_ptr(),
                                      .out = out.mutable_data_ptr()});
  return out;
}

// x of `outputs` or grad_y of `inputs` through all experts.
Tensor quantized_product(const Tensor& left_any, const std::vector<Tensor>& data, const Tensor& offsets,
                         const std::vector<std::string>& formats, int64_t size, bool forward) {
  const char* op = forward ? kQuantized : kQuantizedGrad;
  check(left_any.dim() == 2, op, "the first argument must be a matrix");
  const auto groups = groups_of(offsets, left_any.size(0), op);
  check(static_cast<size_t>(groups.experts) == data.size() && data.size() == formats.size(), op,
        "data, formats and offsets must be of one number of experts");
  const Tensor left = dense(left_any);
  std::vector<packed::Weight> weights;
  for (size_t e = 0; e < data.size(); ++e) {
    weights.push_back(forward ? weight_of(data[e], formats[e], size, left.size(1), op)
                              : weight_of(data[e], formats[e], left.size(1), size, op));
  }
  Tensor out = empty(left, {left.size(0), size});
  const pyllm::grouped_linear::QuantizedProduct product = {.dtype = dtype_of(left, op, "x"),
                                                           .groups = groups,
                                                           .weights = weights.data(),
                                                           .left = left.const_data_ptr(),
                                                           .out = out.mutable_data_ptr()};
  forward ? pyllm::grouped_linear::forward(product) : pyllm::grouped_linear::grad_x(product);
  return out;
}

Tensor grouped_quantized_linear(const Tensor& x, std::vector<Tensor> data, const Tensor& offsets,
                                std::vector<std::string> formats, int64_t outputs) {
  return quantized_product(x, data, offsets, formats, outputs, true);
}

Tensor grouped_quantized_linear_grad(const Tensor& grad_y, std::vector<Tensor> data, const Tensor& offsets,
                                     std::vector<std::string> formats, int64_t inputs) {
  return quantized_product(grad_y, data, offsets, formats, inputs, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("grouped_linear(Tensor x, Tensor weights, Tensor offsets) -> Tensor");
  m.def("grouped_linear_grad_weight(Tensor grad_y, Tensor x, Tensor offsets) -> Tensor");
  m.def(
      "grouped_quantized_linear(Tensor x, Tensor[] data, Tensor offsets, str[] formats, int outputs) -> "
      "Tensor");
  m.def(
      "grouped_quantized_linear_grad(Tensor grad_y, Tensor[] data, Tensor offsets, str[] formats, int "
      "inputs) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("grouped_linear", TORCH_BOX(&grouped_linear));
  m.impl("grouped_linear_grad_weight", TORCH_BOX(&grouped_linear_grad_weight));
  m.impl("grouped_quantized_linear", TORCH_BOX(&grouped_quantized_linear));
  m.impl("grouped_quantized_linear_grad", TORCH_BOX(&grouped_quantized_linear_grad));
}

}  // namespace pyllm::binding
