// Attention to a paged cache on CUDA: positions, tables and lengths stay on the device.
#include <cmath>
#include <tuple>

#include "bindings/torch/attention_cuda.h"
#include "bindings/torch/paged_arguments.h"
#include "ops/attention/cuda_paged.h"

namespace pyllm::binding {
namespace {

using attention::CudaPages;
using attention::KvCode;

constexpr const char* kWrite = "write_kv";
constexpr const char* kAttend = "paged_attention";

CudaPages pages_of(const Tensor& data, const Tensor& like, const Tensor& block_table, int64_t sequences,
                   int64_t page_size, int64_t head_dim, int64_t value_dim, Vectors& vectors, const char* op) {
  const bool aligned = reinterpret_cast<uintptr_t>(data.const_data_ptr()) % 16 == 0 && data.dim() == 3 &&
                       data.stride(0) % 8 == 0 && data.stride(1) % 8 == 0;
  check(aligned, op, "on CUDA the cache's pages must begin at multiples of 16 bytes");
  const DType dtype = dtype_of(like, op, "cache");
  return {.data = const_cast<void*>(data.const_data_ptr()),
          .layout = page_layout_of(data, dtype, KvCode::none, page_size, head_dim, value_dim, op),
          .page_stride = data.stride(0),
          .head_stride = data.stride(1),
          .pages = data.size(0),
          .table = vectors.table(block_table, sequences, "block_table"),
          .columns = block_table.size(1)};
}

void write_kv(const Tensor& k_any, const Tensor& v_any, Tensor data, const Tensor& positions,
              const Tensor& block_table, std::optional<Tensor> cu_seqlens_q, int64_t page_size,
              std::optional<std::string> quantization) {
  check(!quantization, kWrite, "on CUDA there is no quantized cache");
  check(k_any.dim() == 4 && v_any.dim() == 4, kWrite, "k and v must be (batch, kv_heads, q_len, dim)");
  check(v_any.size(0) == k_any.size(0) && v_any.size(1) == k_any.size(1) && v_any.size(2) == k_any.size(2),
        kWrite, "v must have k's batch, heads and length");
  check(size_of(dtype_of(k_any, kWrite, "k")) == 2, kWrite, "on CUDA k must be bfloat16 or float16");
  check_same_kind(k_any, v_any, kWrite, "v");
  check(!cu_seqlens_q || (k_any.size(0) == 1 && cu_seqlens_q->numel() > 0), kWrite,
        "a packed batch has one row and borders");
  check(data.dim() == 3 && data.size(1) == k_any.size(1), kWrite, "cache must have k's heads");
  const OnDevice device(kWrite, {&k_any, &v_any, &data, &positions, &block_table, address(cu_seqlens_q)});
  const Tensor k = with_dense_rows(k_any), v = with_dense_rows(v_any);
  const int64_t batch = k.size(0), sequences = cu_seqlens_q ? cu_seqlens_q->numel() - 1 : batch;
  Vectors vectors(kWrite);
  const attention::CudaWriteKv w = {
      .sequences = sequences,
      .batch = batch,
      .kv_heads = k.size(1),
      .q_len = k.size(2),
      .k = heads_of(k),
      .v = heads_of(v),
      .pages = pages_of(data, k, block_table, sequences, page_size, k.size(3), v.size(3), vectors, kWrite),
      .positions = vectors.integers(positions, batch * k.size(2), "positions"),
      .q_borders = vectors.integers(cu_seqlens_q, sequences + 1, "cu_seqlens_q")};
  if (sequences > 0 && w.pages.columns > 0) attention::write_kv(w);
}

std::tuple<Tensor, Tensor> paged_attention(
    const Tensor& q_any, const Tensor& data, const Tensor& block_table, const Tensor& lengths,
    std::optional<Tensor> sink_logits, std::optional<Tensor> alibi_slopes,
    std::optional<Tensor> prefix_length, std::optional<Tensor> cu_seqlens_q, int64_t page_size,
    int64_t value_dim, bool is_causal, std::optional<double> scale, std::optional<int64_t> window,
    int64_t sink_tokens, std::optional<double> softcap, std::optional<std::string> quantization) {
  check(!quantization, kAttend, "on CUDA there is no quantized cache");
  check(q_any.dim() == 4, kAttend, "q must be (batch, heads, q_len, head_dim)");
  check(sink_tokens >= 0 && (!window || *window > 0) && value_dim >= 0, kAttend,
        "sink_tokens and value_dim must not be negative and window must be positive");
  check_on_cuda(q_any, value_dim, attention::kLargestPagedDim, kAttend);
  const bool packed = cu_seqlens_q.has_value();
  check(!packed || (q_any.size(0) == 1 && cu_seqlens_q->numel() > 0), kAttend,
        "a packed batch has one row and borders");
  const int64_t heads = q_any.size(1), kv_heads = data.dim() == 3 ? data.size(1) : 0;
  check(kv_heads ? heads % kv_heads == 0 : heads == 0, kAttend, "heads must be a multiple of the cache's");
  const OnDevice device(kAttend, {&q_any, &data, &block_table, &lengths, address(sink_logits),
                                  address(alibi_slopes), address(prefix_length), address(cu_seqlens_q)});
  const Tensor q = with_aligned_rows(q_any);
  const int64_t sequences = packed ? cu_seqlens_q->numel() - 1 : q.size(0);
  Tensor out = new_heads(q, q.size(0), heads, q.size(2), value_dim);
  Tensor lse = new_lse(q, q.size(0), heads, q.size(2));
  Vectors vectors(kAttend);
  const CudaPages pages =
      pages_of(data, q, block_table, sequences, page_size, q.size(3), value_dim, vectors, kAttend);
  const attention::CudaPaged p = {
      .forward = {.dtype = dtype_of(q, kAttend, "q"),
                  .sequences = sequences,
                  .heads = heads,
                  .kv_heads = kv_heads,
                  .head_dim = q.size(3),
                  .value_dim = value_dim,
                  .q_len = q.size(2),
                  .kv_len = pages.columns * page_size,
                  .q = heads_of(q),
                  .k = {},
                  .v = {},
                  .out = heads_of(out),
                  .lse = static_cast<float*>(lse.mutable_data_ptr()),
                  .intervals = {is_causal, window.value_or(0), sink_tokens},
                  .prefix = vectors.integers(prefix_length, sequences, "prefix_length"),
                  .kv_lengths = vectors.integers(lengths, sequences, "lengths"),
                  .q_borders = vectors.integers(cu_seqlens_q, sequences + 1, "cu_seqlens_q"),
                  .k_borders = {},
                  .sink_logits = vectors.floats(sink_logits, heads, "sink_logits"),
                  .alibi_slopes = vectors.floats(alibi_slopes, heads, "alibi_slopes"),
                  .scale = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))))),
                  .softcap = static_cast<float>(softcap.value_or(0))},
      .pages = pages};
  if (lse.numel() > 0 && sequences > 0) attention::forward(p);
  return {out, lse};
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def(PYLLM_WRITE_KV_SCHEMA);
  m.def(PYLLM_PAGED_ATTENTION_SCHEMA);
}

PYLLM_KERNELS(m) {
  m.impl("write_kv_", TORCH_BOX(&write_kv));
  m.impl("paged_attention", TORCH_BOX(&paged_attention));
}

}  // namespace pyllm::binding
