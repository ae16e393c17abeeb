#include <cmath>
#include <tuple>

#include "bindings/torch/paged_arguments.h"

namespace pyllm::binding {
namespace {

using attention::KvCode;
using attention::PageLayout;
using attention::Problem;
using attention::WriteKv;

constexpr const char* kWrite = "write_kv";
constexpr const char* kAttend = "paged_attention";

// k, v (batch, kv_heads, q_len, dim) with positions (batch * q_len), or one row of all tokens with borders.
void write_kv(const Tensor& k_any, const Tensor& v_any, Tensor data, const Tensor& positions_any,
              const Tensor& block_table, std::optional<Tensor> cu_seqlens_q, int64_t page_size,
              std::optional<std::string> quantization) {
  check(k_any.dim() == 4 && v_any.dim() == 4, kWrite, "k and v must be (batch, kv_heads, q_len, dim)");
  check(v_any.size(0) == k_any.size(0) && v_any.size(1) == k_any.size(1) && v_any.size(2) == k_any.size(2),
        kWrite, "v must have k's batch, heads and length");
  check_same_kind(k_any, v_any, kWrite, "v");
  const int64_t batch = k_any.size(0), q_len = k_any.size(2);
  const KvCode code = kv_code_of(quantization, kWrite);
  const DType dtype = dtype_of(k_any, kWrite, "k");
  const PageLayout layout =
      page_layout_of(data, dtype, code, page_size, k_any.size(3), v_any.size(3), kWrite);
  check(data.size(1) == k_any.size(1), kWrite, "cache must have k's heads");
  const std::vector<int64_t> positions = integers(positions_any, kWrite, "positions");
  check(static_cast<int64_t>(positions.size()) == batch * q_len, kWrite, "positions must fit k");
  const IntegerTable table(block_table, kWrite, "block_table");
  std::vector<int64_t> ends;
  if (cu_seqlens_q) {
    check(batch == 1, kWrite, "a packed batch has one row");
    ends = borders(*cu_seqlens_q, q_len, kWrite, "cu_seqlens_q");
  }
  check(block_table.size(0) == (cu_seqlens_q ? static_cast<int64_t>(ends.size()) - 1 : batch), kWrite,
        "block_table must have one row per sequence");
  const std::vector<WriteKv::Token> tokens =
      new_tokens(positions, q_len, ends, table, data.size(0), page_size, kWrite);
  if (tokens.empty()) return;
  const Tensor k = with_dense_rows(k_any), v = with_dense_rows(v_any);
  attention::write_kv({.dtype = dtype,
                       .kv_heads = k.size(1),
                       .k = heads_of(k),
                       .v = heads_of(v),
                       .data = data.mutable_data_ptr(),
                       .layout = layout,
                       .page_stride = data.stride(0),
                       .head_stride = data.stride(1),
                       .token = tokens.data(),
                       .tokens = static_cast<int64_t>(tokens.size()),
                       .code = code});
}

std::tuple<Tensor, Tensor> paged_attention(
    const Tensor& q_any, const Tensor& data, const Tensor& block_table, const Tensor& lengths,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> cu_seqlens_q, int64_t page_size,
    int64_t value_dim, bool is_causal, std::optional<double> scale, std::optional<int64_t> window,
    int64_t sink_tokens, std::optional<double> softcap, std::optional<std::string> quantization) {
  check(q_any.dim() == 4, kAttend, "q must be (batch, heads, q_len, head_dim)");
  check(sink_tokens >= 0 && (!window || *window > 0) && value_dim >= 0, kAttend,
        "sink_tokens and value_dim must not be negative and window must be positive");
  const KvCode code = kv_code_of(quantization, kAttend);
  const DType dtype = dtype_of(q_any, kAttend, "q");
  const PageLayout layout = page_layout_of(data, dtype, code, page_size, q_any.size(3), value_dim, kAttend);
  const int64_t heads = q_any.size(1), kv_heads = data.size(1);
  check(kv_heads ? heads % kv_heads == 0 : heads == 0, kAttend, "heads must be a multiple of the cache's");
  const Tensor q = with_dense_rows(q_any);
  Batch batch = batch_of({q.size(0), q.size(2)}, data.size(0), block_table, lengths, prefix_length,
                         cu_seqlens_q, page_size, kAttend);
  const std::vector<double> sinks = per_head(sink_logits, heads, kAttend, "sink_logits");
  const std::vector<double> slopes = per_head(alibi_slopes, heads, kAttend, "alibi_slopes");
  const Problem p = {
      .dtype = dtype,
      .sequences = static_cast<int64_t>(batch.sequences.size()),
      .heads = heads,
      .kv_heads = kv_heads,
      .head_dim = q.size(3),
      .value_dim = value_dim,
      .tokens = q.size(2),
      .sequence = batch.sequences.data(),
      .q = heads_of(q),
      .k = {},
      .v = {},
      .intervals = {is_causal, window.value_or(0), sink_tokens},
      .mask = {},
      .sink_logits = sink_logits ? sinks.data() : nullptr,
      .alibi_slopes = alibi_slopes ? slopes.data() : nullptr,
      .scale = scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3)))),
      .softcap = softcap.value_or(0),
      .dropout_p = 0,
      .seed = 0,
      .tiles = 0,
      .blocks = 0,
      .pages = {data.const_data_ptr(), layout, data.stride(0), data.stride(1), batch.pages.data(), code}};
  Tensor out = new_heads(q, q.size(0), heads, p.tokens, value_dim);
  Tensor lse = new_lse(q, q.size(0), heads, p.tokens);
  if (lse.numel() > 0) attention::forward({p, heads_of(out), lse.mutable_data_ptr()});
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(PYLLM_WRITE_KV_SCHEMA);
  m.def(PYLLM_PAGED_ATTENTION_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("write_kv_", TORCH_BOX(&write_kv));
  m.impl("paged_attention", TORCH_BOX(&paged_attention));
}

}  // namespace pyllm::binding
