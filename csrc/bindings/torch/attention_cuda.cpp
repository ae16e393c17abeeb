// Attention on CUDA: lengths, borders and per-head numbers stay on the device, where the CPU's shim would
// read them.
#include "bindings/torch/attention_cuda.h"

#include <cmath>
#include <optional>
#include <tuple>

#include "ops/attention/cuda.h"

namespace pyllm::binding {
namespace {

using attention::CudaForward;

constexpr const char* kOp = "attention";

void check_heads_on_cuda(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_heads(q, k, v, kOp);
  check_on_cuda(q, v.size(3), attention::kLargestCudaDim, kOp);
}

// The op's arguments but for q, k and v, as far as CUDA has them.
struct Options {
  std::optional<Tensor> attn_mask, sink_logits, alibi_slopes, prefix_length, kv_lengths, cu_seqlens_q,
      cu_seqlens_k;
  bool is_causal;
  std::optional<double> scale;
  std::optional<int64_t> window;
  int64_t sink_tokens;
  std::optional<double> softcap;
  double dropout_p;
};

void check_options(const Tensor& q, const Options& o) {
  check(!o.attn_mask && o.dropout_p == 0, kOp, "on CUDA there is neither attn_mask nor dropout");
  check(o.sink_tokens >= 0 && (!o.window || *o.window > 0), kOp,
        "sink_tokens must not be negative and window must be positive");
  const bool packed = o.cu_seqlens_q.has_value();
  check(packed == o.cu_seqlens_k.has_value(), kOp, "cu_seqlens_q and cu_seqlens_k must be given together");
  check(!packed || (q.size(0) == 1 && !o.kv_lengths && o.cu_seqlens_q->numel() > 0), kOp,
        "a packed batch has one row, no kv_lengths, and borders");
}

// Tensors as the kernels take them, alive while they are launched.
struct Inputs {
  Tensor q, k, v;
  Vectors vectors{kOp};
  CudaForward forward = {};  // but for its results
};

Inputs prepare(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any, const Options& o) {
  Inputs in = {with_aligned_rows(q_any), with_aligned_rows(k_any), with_aligned_rows(v_any)};
  const Tensor &q = in.q, &k = in.k, &v = in.v;
  const int64_t sequences = o.cu_seqlens_q ? o.cu_seqlens_q->numel() - 1 : q.size(0), heads = q.size(1);
  in.forward = {
      .dtype = dtype_of(q, kOp, "q"),
      .sequences = sequences,
      .heads = heads,
      .kv_heads = k.size(1),
      .head_dim = q.size(3),
      .value_dim = v.size(3),
      .q_len = q.size(2),
      .kv_len = k.size(2),
      .q = heads_of(q),
      .k = heads_of(k),
      .v = heads_of(v),
      .out = {},
      .lse = nullptr,
      .intervals = {o.is_causal, o.window.value_or(0), o.sink_tokens},
      .prefix = in.vectors.integers(o.prefix_length, sequences, "prefix_length"),
      .kv_lengths = in.vectors.integers(o.kv_lengths, sequences, "kv_lengths"),
      .q_borders = in.vectors.integers(o.cu_seqlens_q, sequences + 1, "cu_seqlens_q"),
      .k_borders = in.vectors.integers(o.cu_seqlens_k, sequences + 1, "cu_seqlens_k"),
      .sink_logits = in.vectors.floats(o.sink_logits, heads, "sink_logits"),
      .alibi_slopes = in.vectors.floats(o.alibi_slopes, heads, "alibi_slopes"),
      .scale = static_cast<float>(o.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))))),
      .softcap = static_cast<float>(o.softcap.value_or(0)),
  };
  return in;
}

std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> attn_mask,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
    std::optional<Tensor> cu_seqlens_k, std::optional<Tensor>, bool is_causal, std::optional<double> scale,
    std::optional<int64_t> window, int64_t sink_tokens, std::optional<double> softcap, double dropout_p) {
  const Options o = {attn_mask,    sink_logits,  alibi_slopes, prefix_length, kv_lengths,
                     cu_seqlens_q, cu_seqlens_k, is_causal,    scale,         window,
                     sink_tokens,  softcap,      dropout_p};
  check_heads_on_cuda(q, k, v);
  check_options(q, o);
  const OnDevice device(kOp, {&q, &k, &v, address(sink_logits), address(alibi_slopes), address(prefix_length),
                              address(kv_lengths), address(cu_seqlens_q), address(cu_seqlens_k)});
  Inputs in = prepare(q, k, v, o);
  CudaForward& f = in.forward;
  Tensor out = new_heads(in.q, q.size(0), f.heads, f.q_len, f.value_dim);
  Tensor lse = new_lse(in.q, q.size(0), f.heads, f.q_len);
  f.out = heads_of(out);
  f.lse = static_cast<float*>(lse.mutable_data_ptr());
  if (lse.numel() > 0 && f.sequences > 0) attention::forward(f);
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out_any, std::optional<Tensor> grad_lse_any, const Tensor& out_any,
    const Tensor& lse_any, const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> attn_mask,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
    std::optional<Tensor> cu_seqlens_k, std::optional<Tensor>, bool is_causal, std::optional<double> scale,
    std::optional<int64_t> window, int64_t sink_tokens, std::optional<double> softcap, double dropout_p,
    bool) {
  const Options o = {attn_mask,    sink_logits,  alibi_slopes, prefix_length, kv_lengths,
                     cu_seqlens_q, cu_seqlens_k, is_causal,    scale,         window,
                     sink_tokens,  softcap,      dropout_p};
  check_heads_on_cuda(q, k, v);
  check_options(q, o);
  check_results(q, v, grad_out_any, grad_lse_any, out_any, lse_any, kOp);
  const OnDevice device(kOp, {&q, &k, &v, &grad_out_any, &out_any, &lse_any, address(grad_lse_any),
                              address(sink_logits), address(alibi_slopes), address(prefix_length),
                              address(kv_lengths), address(cu_seqlens_q), address(cu_seqlens_k)});
  Inputs in = prepare(q, k, v, o);
  const Tensor out = with_aligned_rows(out_any), grad_out = with_aligned_rows(grad_out_any);
  const Tensor lse = dense(lse_any);
  std::optional<Tensor> grad_lse;
  if (grad_lse_any) grad_lse = dense(*grad_lse_any);
  CudaForward& f = in.forward;
  f.out = heads_of(out);
  f.lse = static_cast<float*>(const_cast<void*>(lse.const_data_ptr()));
  Tensor grad_q = new_heads(in.q, q.size(0), f.heads, f.q_len, f.head_dim);
  Tensor grad_k = new_key_gradient(in.k, kv_lengths.has_value());
  Tensor grad_v = new_key_gradient(in.v, kv_lengths.has_value());
  Tensor grad_sink = torch::stable::new_zeros(in.q, {sink_logits ? f.heads : 0}, ScalarType::Float);
  const attention::CudaBackward b = {
      .forward = f,
      .grad_out = heads_of(grad_out),
      .grad_q = heads_of(grad_q),
      .grad_k = heads_of(grad_k),
      .grad_v = heads_of(grad_v),
      .grad_lse = grad_lse ? static_cast<const float*>(grad_lse->const_data_ptr()) : nullptr,
      .grad_sink = sink_logits ? static_cast<float*>(grad_sink.mutable_data_ptr()) : nullptr};
  if (f.heads > 0 && f.sequences > 0) attention::backward(b);
  return {grad_q, grad_k, grad_v, torch::stable::new_zeros(in.q, {0}, ScalarType::Double), grad_sink};
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def(PYLLM_ATTENTION_SCHEMA);
  m.def(PYLLM_ATTENTION_BACKWARD_SCHEMA);
}

PYLLM_KERNELS(m) {
  m.impl("attention", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace pyllm::binding
