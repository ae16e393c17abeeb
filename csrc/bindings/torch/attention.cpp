#include "ops/attention/attention.h"

#include <cmath>
#include <optional>
#include <tuple>

#include "bindings/torch/attention_arguments.h"

namespace pyllm::binding {
namespace {

using attention::Heads;
using attention::Problem;
using attention::Sequence;

constexpr const char* kOp = "attention";

// The op's arguments but for the tensors it differentiates, in the order of the schema.
struct Options {
  std::optional<Tensor> attn_mask, sink_logits, alibi_slopes, prefix_length, kv_lengths, cu_seqlens_q,
      cu_seqlens_k, dropout_seed;
  bool is_causal;
  std::optional<double> scale;
  std::optional<int64_t> window;
  int64_t sink_tokens;
  std::optional<double> softcap;
  double dropout_p;
};

std::vector<Sequence> packed_sequences(const Tensor& q, const Tensor& k, const Options& o) {
  check(o.cu_seqlens_q && o.cu_seqlens_k, kOp, "cu_seqlens_q and cu_seqlens_k must be given together");
  check(q.size(0) == 1 && !o.kv_lengths && !o.attn_mask, kOp,
        "a packed batch has one row, no kv_lengths and no attn_mask");
  const std::vector<int64_t> q_at = borders(*o.cu_seqlens_q, q.size(2), kOp, "cu_seqlens_q");
  const std::vector<int64_t> k_at = borders(*o.cu_seqlens_k, k.size(2), kOp, "cu_seqlens_k");
  check(q_at.size() == k_at.size(), kOp, "cu_seqlens_k must be as long as cu_seqlens_q");
  std::vector<Sequence> sequences;
  for (size_t i = 0; i + 1 < q_at.size(); ++i) {
    sequences.push_back({.batch = 0,
                         .first_query = q_at[i],
                         .q_len = q_at[i + 1] - q_at[i],
                         .first_key = k_at[i],
                         .kv_len = k_at[i + 1] - k_at[i],
                         .prefix = 0,
                         .tiles_before = 0,
                         .blocks_before = 0});
  }
  return sequences;
}

std::vector<Sequence> padded_sequences(const Tensor& q, const Tensor& k, const Options& o) {
  const size_t batch = static_cast<size_t>(q.size(0));
  std::vector<int64_t> lengths(batch, k.size(2));
  if (o.kv_lengths) {
    lengths = integers(*o.kv_lengths, kOp, "kv_lengths");
    check(lengths.size() == batch, kOp, "kv_lengths must have shape (batch,)");
  }
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < batch; ++i) {
    if (lengths[i] < 0 || lengths[i] > k.size(2)) {
      check(
          false, kOp,
          "kv_lengths must lie in [0, " + std::to_string(k.size(2)) + "], got " + std::to_string(lengths[i]));
    }
    sequences.push_back({.batch = static_cast<int64_t>(i),
                         .first_query = 0,
                         .q_len = q.size(2),
                         .first_key = 0,
                         .kv_len = lengths[i],
                         .prefix = 0,
                         .tiles_before = 0,
                         .blocks_before = 0});
  }
  return sequences;
}

std::vector<Sequence> sequences_of(const Tensor& q, const Tensor& k, const Options& o) {
  std::vector<Sequence> sequences =
      o.cu_seqlens_q || o.cu_seqlens_k ? packed_sequences(q, k, o) : padded_sequences(q, k, o);
  if (o.prefix_length) {
    const std::vector<int64_t> prefix = integers(*o.prefix_length, kOp, "prefix_length");
    check(prefix.size() == sequences.size(), kOp, "prefix_length must have one entry per sequence");
    for (size_t i = 0; i < prefix.size(); ++i) {
      if (prefix[i] < 0) {
        check(false, kOp, "prefix_length must not be negative, got " + std::to_string(prefix[i]));
      }
      sequences[i].prefix = prefix[i];
    }
  }
  return sequences;
}

// Strides of a mask that broadcasts to (batch, heads, q_len, kv_len), given those of its own dimensions.
attention::MaskStrides broadcast_strides(const Tensor& mask, const std::vector<int64_t>& strides,
                                         const std::vector<int64_t>& shape) {
  int64_t wide[4] = {0, 0, 0, 0};
  check(mask.dim() <= 4, kOp, "attn_mask must have at most four dimensions");
  for (int64_t i = 0; i < mask.dim(); ++i) {
    const int64_t to = 4 - mask.dim() + i;
    if (mask.size(i) == 1) continue;
    check(mask.size(i) == shape[static_cast<size_t>(to)], kOp,
          "attn_mask must broadcast to (batch, heads, q_len, kv_len)");
    wide[to] = strides[static_cast<size_t>(i)];
  }
  return {wide[0], wide[1], wide[2], wide[3]};
}

// A problem, with what it points to.
struct Inputs {
  Tensor q, k, v;
  std::vector<Sequence> sequences;
  std::vector<double> sink_logits, alibi_slopes;
  std::vector<int64_t> score_shape;
  Problem problem;
};

Inputs prepare(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any, const Options& o) {
  check_heads(q_any, k_any, v_any, kOp);
  check(o.dropout_p >= 0 && o.dropout_p <= 1 && (o.dropout_p == 0 || o.dropout_seed), kOp,
        "dropout_p must lie in [0, 1] and needs dropout_seed");
  check(o.sink_tokens >= 0 && (!o.window || *o.window > 0), kOp,
        "sink_tokens must not be negative and window must be positive");
  Inputs in{with_dense_rows(q_any),
            with_dense_rows(k_any),
            with_dense_rows(v_any),
            sequences_of(q_any, k_any, o),
            per_head(o.sink_logits, q_any.size(1), kOp, "sink_logits"),
            per_head(o.alibi_slopes, q_any.size(1), kOp, "alibi_slopes"),
            {q_any.size(0), q_any.size(1), q_any.size(2), k_any.size(2)},
            {}};
  in.problem = {.dtype = dtype_of(q_any, kOp, "q"),
                .sequences = static_cast<int64_t>(in.sequences.size()),
                .heads = q_any.size(1),
                .kv_heads = k_any.size(1),
                .head_dim = q_any.size(3),
                .value_dim = v_any.size(3),
                .tokens = q_any.size(2),
                .sequence = in.sequences.data(),
                .q = heads_of(in.q),
                .k = heads_of(in.k),
                .v = heads_of(in.v),
                .intervals = {o.is_causal, o.window.value_or(0), o.sink_tokens},
                .mask = {},
                .sink_logits = o.sink_logits ? in.sink_logits.data() : nullptr,
                .alibi_slopes = o.alibi_slopes ? in.alibi_slopes.data() : nullptr,
                .scale = o.scale.value_or(1 / std::sqrt(static_cast<double>(q_any.size(3)))),
                .softcap = o.softcap.value_or(0),
                .dropout_p = o.dropout_p,
                .seed = 0,
                .tiles = 0,
                .blocks = 0};
  if (o.dropout_seed) {
    check(o.dropout_seed->numel() == 1 && o.dropout_seed->scalar_type() == ScalarType::Long, kOp,
          "dropout_seed must be one int64");
    in.problem.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(o.dropout_seed->const_data_ptr()));
  }
  if (o.attn_mask) {
    const Tensor& mask = *o.attn_mask;
    const bool boolean = mask.scalar_type() == ScalarType::Bool;
    const std::vector<int64_t> strides(mask.strides().begin(), mask.strides().end());
    in.problem.mask = {mask.const_data_ptr(), boolean,
                       boolean ? DType::f32 : dtype_of(mask, kOp, "attn_mask"),
                       broadcast_strides(mask, strides, in.score_shape)};
  }
  return in;
}

std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> attn_mask,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
    std::optional<Tensor> cu_seqlens_k, std::optional<Tensor> dropout_seed, bool is_causal,
    std::optional<double> scale, std::optional<int64_t> window, int64_t sink_tokens,
    std::optional<double> softcap, double dropout_p) {
  const Inputs in =
      prepare(q, k, v,
              {attn_mask, sink_logits, alibi_slopes, prefix_length, kv_lengths, cu_seqlens_q, cu_seqlens_k,
               dropout_seed, is_causal, scale, window, sink_tokens, softcap, dropout_p});
  const Problem& p = in.problem;
  Tensor out = new_heads(q, q.size(0), p.heads, p.tokens, p.value_dim);
  Tensor lse = new_lse(q, q.size(0), p.heads, p.tokens);
  if (lse.numel() > 0) attention::forward({p, heads_of(out), lse.mutable_data_ptr()});
  return {out, lse};
}

// Zeros in the mask's own shape, and how the scores index it.
Tensor new_mask_gradient(const Inputs& in, const Tensor& mask, attention::Backward& to) {
  Tensor grad = torch::stable::new_zeros(in.q, shape_of(mask), ScalarType::Double);
  const std::vector<int64_t> strides(grad.strides().begin(), grad.strides().end());
  to.grad_mask = static_cast<double*>(grad.mutable_data_ptr());
  to.grad_mask_strides = broadcast_strides(mask, strides, in.score_shape);
  return grad;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out_any, std::optional<Tensor> grad_lse_any, const Tensor& out_any,
    const Tensor& lse_any, const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> attn_mask,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
    std::optional<Tensor> cu_seqlens_k, std::optional<Tensor> dropout_seed, bool is_causal,
    std::optional<double> scale, std::optional<int64_t> window, int64_t sink_tokens,
    std::optional<double> softcap, double dropout_p, bool mask_gradient) {
  const Inputs in =
      prepare(q, k, v,
              {attn_mask, sink_logits, alibi_slopes, prefix_length, kv_lengths, cu_seqlens_q, cu_seqlens_k,
               dropout_seed, is_causal, scale, window, sink_tokens, softcap, dropout_p});
  const Problem& p = in.problem;
  check_results(q, v, grad_out_any, grad_lse_any, out_any, lse_any, kOp);
  const Tensor out = with_dense_rows(out_any), grad_out = with_dense_rows(grad_out_any), lse = dense(lse_any);
  std::optional<Tensor> grad_lse;
  if (grad_lse_any) grad_lse = dense(*grad_lse_any);
  Tensor grad_q = new_heads(q, q.size(0), p.heads, p.tokens, p.head_dim);
  Tensor grad_k = new_key_gradient(k, kv_lengths.has_value());
  Tensor grad_v = new_key_gradient(v, kv_lengths.has_value());
  Tensor grad_sink = torch::stable::new_zeros(q, {sink_logits ? p.heads : 0}, accumulator_type(q));
  attention::Backward b{.problem = p,
                        .out = heads_of(out),
                        .grad_out = heads_of(grad_out),
                        .lse = lse.const_data_ptr(),
                        .grad_lse = grad_lse ? grad_lse->const_data_ptr() : nullptr,
                        .grad_q = heads_of(grad_q),
                        .grad_k = heads_of(grad_k),
                        .grad_v = heads_of(grad_v),
                        .grad_mask = nullptr,
                        .grad_mask_strides = {},
                        .grad_sink = sink_logits ? grad_sink.mutable_data_ptr() : nullptr};
  mask_gradient = mask_gradient && attn_mask && !p.mask.boolean;
  Tensor grad_mask = mask_gradient ? new_mask_gradient(in, *attn_mask, b)
                                   : torch::stable::new_zeros(q, {0}, ScalarType::Double);
  if (p.heads > 0 && p.sequences > 0) attention::backward(b);
  return {grad_q, grad_k, grad_v, grad_mask, grad_sink};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(PYLLM_ATTENTION_SCHEMA);
  m.def(PYLLM_ATTENTION_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("attention", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace pyllm::binding
