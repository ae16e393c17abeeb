// Attention on CUDA: lengths, borders and per-head numbers stay on the device, where the CPU's shim would
// read them.
#include <cmath>
#include <optional>
#include <tuple>

#include "bindings/torch/attention_arguments.h"
#include "bindings/torch/device.h"
#include "ops/attention/cuda.h"

namespace pyllm::binding {
namespace {

using attention::CudaForward;
using attention::Heads;
using attention::Integers;

constexpr const char* kOp = "attention";

// x, or a copy of it: the kernel reads 16 bytes at a time.
Tensor with_aligned_rows(const Tensor& x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 && x.stride(3) == 1 &&
                       x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0;
  return aligned ? x : torch::stable::contiguous(torch::stable::clone(x));
}

// Tensors that the kernel reads, alive while it is launched.
class Vectors {
 public:
  Integers integers(const std::optional<Tensor>& x, int64_t count, const char* argument) {
    if (!x) return {nullptr, false};
    const bool narrow = x->scalar_type() == ScalarType::Int;
    check(x->dim() == 1 && x->size(0) == count && (narrow || x->scalar_type() == ScalarType::Long), kOp,
          std::string(argument) + " must be int32 or int64 with an entry per sequence");
    kept_.push_back(dense(*x));
    return {kept_.back().const_data_ptr(), !narrow};
  }
  const float* floats(const std::optional<Tensor>& x, int64_t heads, const char* argument) {
    if (!x) return nullptr;
    check(x->dim() == 1 && x->size(0) == heads, kOp, std::string(argument) + " must have shape (heads,)");
    const bool wide = x->scalar_type() == ScalarType::Float;
    kept_.push_back(dense(wide ? *x : torch::stable::to(*x, ScalarType::Float)));
    return static_cast<const float*>(kept_.back().const_data_ptr());
  }

 private:
  std::vector<Tensor> kept_;
};

void check_heads_on_cuda(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_heads(q, k, v, kOp);
  const auto fits = [](int64_t dim) { return dim % 8 == 0 && dim <= attention::kLargestCudaDim; };
  check(q.scalar_type() == ScalarType::BFloat16 || q.scalar_type() == ScalarType::Half, kOp,
        "on CUDA q must be bfloat16 or float16");
  check(fits(q.size(3)) && fits(v.size(3)), kOp, "on CUDA head sizes must be multiples of 8 up to 256");
}

std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& q_any, const Tensor& k_any, const Tensor& v_any, std::optional<Tensor> attn_mask,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
    std::optional<Tensor> cu_seqlens_k, std::optional<Tensor>, bool is_causal, std::optional<double> scale,
    std::optional<int64_t> window, int64_t sink_tokens, std::optional<double> softcap, double dropout_p) {
  check_heads_on_cuda(q_any, k_any, v_any);
  check(!attn_mask && dropout_p == 0, kOp, "on CUDA there is neither attn_mask nor dropout");
  check(sink_tokens >= 0 && (!window || *window > 0), kOp,
        "sink_tokens must not be negative and window must be positive");
  const bool packed = cu_seqlens_q.has_value();
  check(packed == cu_seqlens_k.has_value(), kOp, "cu_seqlens_q and cu_seqlens_k must be given together");
  check(!packed || (q_any.size(0) == 1 && !kv_lengths && cu_seqlens_q->numel() > 0), kOp,
        "a packed batch has one row, no kv_lengths, and borders");
  const OnDevice device(
      kOp, {&q_any, &k_any, &v_any, address(sink_logits), address(alibi_slopes), address(prefix_length),
            address(kv_lengths), address(cu_seqlens_q), address(cu_seqlens_k)});
  const Tensor q = with_aligned_rows(q_any), k = with_aligned_rows(k_any), v = with_aligned_rows(v_any);
  const int64_t sequences = packed ? cu_seqlens_q->numel() - 1 : q.size(0), heads = q.size(1);
  Tensor out = new_heads(q, q.size(0), heads, q.size(2), v.size(3));
  Tensor lse = new_lse(q, q.size(0), heads, q.size(2));
  Vectors vectors;
  const CudaForward f = {
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
      .out = heads_of(out),
      .lse = static_cast<float*>(lse.mutable_data_ptr()),
      .intervals = {is_causal, window.value_or(0), sink_tokens},
      .prefix = vectors.integers(prefix_length, sequences, "prefix_length"),
      .kv_lengths = vectors.integers(kv_lengths, sequences, "kv_lengths"),
      .q_borders = vectors.integers(cu_seqlens_q, sequences + 1, "cu_seqlens_q"),
      .k_borders = vectors.integers(cu_seqlens_k, sequences + 1, "cu_seqlens_k"),
      .sink_logits = vectors.floats(sink_logits, heads, "sink_logits"),
      .alibi_slopes = vectors.floats(alibi_slopes, heads, "alibi_slopes"),
      .scale = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))))),
      .softcap = static_cast<float>(softcap.value_or(0)),
  };
  if (lse.numel() > 0 && sequences > 0) attention::forward(f);
  return {out, lse};
}

}  // namespace

PYLLM_SCHEMAS(m) { m.def(PYLLM_ATTENTION_SCHEMA); }

PYLLM_KERNELS(m) { m.impl("attention", TORCH_BOX(&attention_forward)); }

}  // namespace pyllm::binding
