// Tensors as the attention kernels take them: what attention and paged attention share.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <optional>
#include <stdexcept>

#include "bindings/torch/tensor.h"
#include "ops/attention/attention.h"

// The op's arguments in its schema.
#define PYLLM_ATTENTION_ARGUMENTS                                                                      \
  "Tensor q, Tensor k, Tensor v, Tensor? attn_mask, Tensor? sink_logits, Tensor? alibi_slopes, "       \
  "Tensor? prefix_length, Tensor? kv_lengths, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "            \
  "Tensor? dropout_seed, bool is_causal, float? scale, int? window, int sink_tokens, float? softcap, " \
  "float dropout_p"
#define PYLLM_ATTENTION_SCHEMA "attention(" PYLLM_ATTENTION_ARGUMENTS ") -> (Tensor out, Tensor lse)"
#define PYLLM_ATTENTION_BACKWARD_SCHEMA                                                       \
  "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor out, Tensor "                 \
  "lse, " PYLLM_ATTENTION_ARGUMENTS                                                           \
  ", bool mask_gradient) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_mask, " \
  "Tensor grad_sink)"

namespace pyllm::binding {

// For values inside index tensors, which are checked here and not in Python, where reading them would cost as
// much as a small call: pybind11 shows invalid_argument as ValueError. message() is called only if it is
// needed.
template <class Message>
void check_value(bool condition, const char* op, const Message& message) {
  if (!condition) throw std::invalid_argument(std::string(op) + ": " + message());
}

// x, or a copy of it whose last dimension is contiguous.
inline Tensor with_dense_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return x.size(last) <= 1 || x.stride(last) == 1 ? x : torch::stable::contiguous(x);
}

inline attention::Heads heads_of(const Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

// Uninitialized, on the device of `like`. A call of torch's C interface: through the dispatcher a new tensor
// and its transpose cost 4 us.
template <std::size_t N>
Tensor new_strided(const Tensor& like, ScalarType dtype, const std::array<int64_t, N>& sizes,
                   const std::array<int64_t, N>& strides) {
  int32_t device_type = 0, device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      N, sizes.data(), strides.data(), static_cast<int32_t>(dtype), device_type, device, &made));
  return Tensor(made);
}

// (batch, heads, tokens, dim) over memory laid out as (batch, tokens, heads, dim).
inline Tensor new_heads(const Tensor& like, int64_t batch, int64_t heads, int64_t tokens, int64_t dim) {
  return new_strided<4>(like, like.scalar_type(), {batch, heads, tokens, dim},
                        {tokens * heads * dim, dim, heads * dim, 1});
}

// (batch, heads, tokens), in the dtype that sums over `like` are kept in.
inline Tensor new_lse(const Tensor& like, int64_t batch, int64_t heads, int64_t tokens) {
  return new_strided<3>(like, accumulator_type(like), {batch, heads, tokens}, {heads * tokens, tokens, 1});
}

inline std::vector<int64_t> integers(const Tensor& any, const char* op, const char* argument) {
  const Tensor x = dense(any);
  const bool narrow = x.scalar_type() == ScalarType::Int;
  if (x.dim() != 1 || !(narrow || x.scalar_type() == ScalarType::Long)) {
    check(false, op, std::string(argument) + " must be one-dimensional, int32 or int64");
  }
  const void* data = x.const_data_ptr();
  std::vector<int64_t> values(static_cast<size_t>(x.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = narrow ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
  }
  return values;
}

inline std::vector<double> per_head(const std::optional<Tensor>& any, int64_t heads, const char* op,
                                    const char* argument) {
  if (!any) return {};
  if (any->dim() != 1 || any->size(0) != heads) {
    check(false, op, std::string(argument) + " must have shape (heads,)");
  }
  const Tensor x = dense(*any);
  std::vector<double> values(static_cast<size_t>(heads));
  visit(dtype_of(x, op, argument), [&](auto zero) {
    const auto* data = static_cast<const decltype(zero)*>(x.const_data_ptr());
    for (size_t i = 0; i < values.size(); ++i) values[i] = to_double(data[i]);
  });
  return values;
}

// Rises from 0 to `tokens`.
inline std::vector<int64_t> borders(const Tensor& cu_seqlens, int64_t tokens, const char* op,
                                    const char* argument) {
  std::vector<int64_t> at = integers(cu_seqlens, op, argument);
  bool rising = !at.empty() && at.front() == 0 && at.back() == tokens;
  for (size_t i = 1; i < at.size(); ++i) rising = rising && at[i - 1] <= at[i];
  check_value(rising, op, [&] {
    return std::string(argument) + " must rise from 0 to the number of tokens, " + std::to_string(tokens);
  });
  return at;
}

// What an attention of ordinary tensors asks of its shapes.
inline void check_heads(const Tensor& q, const Tensor& k, const Tensor& v, const char* op) {
  check(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, op, "q, k and v must be (batch, heads, len, dim)");
  check(k.size(0) == q.size(0) && v.size(0) == q.size(0) && k.size(3) == q.size(3), op,
        "k and v must have q's batch, and k its head_dim");
  check(v.size(1) == k.size(1) && v.size(2) == k.size(2), op, "v must have k's heads and length");
  check(k.size(1) ? q.size(1) % k.size(1) == 0 : q.size(1) == 0, op, "heads must be a multiple of kv_heads");
  check_same_kind(q, k, op, "k");
  check_same_kind(q, v, op, "v");
}

// And its gradient of what the forward pass left.
inline void check_results(const Tensor& q, const Tensor& v, const Tensor& grad_out,
                          const std::optional<Tensor>& grad_lse, const Tensor& out, const Tensor& lse,
                          const char* op) {
  check_same_kind(q, grad_out, op, "grad_out");
  check_same_kind(q, out, op, "out");
  check_same_shape(out, grad_out, op, "grad_out");
  const std::vector<int64_t> rows = {q.size(0), q.size(1), q.size(2)};
  check(out.dim() == 4 && shape_of(out) == std::vector<int64_t>{rows[0], rows[1], rows[2], v.size(3)}, op,
        "out must be (batch, heads, q_len, dim of v)");
  check(shape_of(lse) == rows && lse.scalar_type() == accumulator_type(q), op,
        "lse must be (batch, heads, q_len) accumulators");
  if (!grad_lse) return;
  check_same_shape(lse, *grad_lse, op, "grad_lse");
  check_same_kind(lse, *grad_lse, op, "grad_lse");
}

// Zeros where keys past kv_lengths, which belong to no sequence, are written by nobody.
inline Tensor new_key_gradient(const Tensor& like, bool padded) {
  Tensor grad = new_heads(like, like.size(0), like.size(1), like.size(2), like.size(3));
  return padded ? torch::stable::zero_(grad) : grad;
}

}  // namespace pyllm::binding
