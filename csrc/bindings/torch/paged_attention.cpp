#include <cmath>
#include <tuple>

#include "bindings/torch/attention_arguments.h"

namespace pyllm::binding {
namespace {

using attention::PagedKeys;
using attention::PageLayout;
using attention::Problem;
using attention::Sequence;
using attention::WriteKv;

constexpr const char* kWrite = "write_kv";
constexpr const char* kAttend = "paged_attention";

// A (rows, columns) table of int32 or int64.
class IntegerTable {
 public:
  IntegerTable(const Tensor& x, const char* op, const char* argument)
      : x_(dense(x)), narrow_(x.scalar_type() == ScalarType::Int), data_(x_.const_data_ptr()) {
    if (x.dim() != 2 || !(narrow_ || x.scalar_type() == ScalarType::Long)) {
      check(false, op, std::string(argument) + " must be two-dimensional, int32 or int64");
    }
    columns_ = x.size(1);
  }
  int64_t columns() const { return columns_; }
  int64_t at(int64_t row, int64_t column) const {
    const int64_t i = row * columns_ + column;
    return narrow_ ? static_cast<const int32_t*>(data_)[i] : static_cast<const int64_t*>(data_)[i];
  }

 private:
  Tensor x_;
  bool narrow_;
  int64_t columns_;
  const void* data_;
};

PageLayout layout_of(const Tensor& data, int64_t page_size, int64_t head_dim, int64_t value_dim,
                     const char* op) {
  check(attention::is_page_size(page_size), op, "page_size must be 16, 32, 64, 128 or 256");
  const PageLayout layout =
      attention::page_layout(dtype_of(data, op, "cache"), page_size, head_dim, value_dim);
  if (data.dim() != 3 || data.size(2) != layout.elements()) {
    check(false, op, "cache must be (pages, kv_heads, " + std::to_string(layout.elements()) + ")");
  }
  check(data.size(2) <= 1 || data.stride(2) == 1, op, "pages of the cache must be contiguous");
  return layout;
}

// The id of a page as block_table has it.
int64_t page_id(const IntegerTable& table, int64_t row, int64_t column, int64_t pages, const char* op) {
  const int64_t page = table.at(row, column);
  check_value(page >= 0 && page < pages, op, [&] {
    return "block_table must hold pages in [0, " + std::to_string(pages) + "), got " + std::to_string(page) +
           " at (" + std::to_string(row) + ", " + std::to_string(column) + ")";
  });
  return page;
}

// k, v (batch, kv_heads, q_len, dim) with positions (batch * q_len), or one row of all tokens with borders.
void write_kv(const Tensor& k_any, const Tensor& v_any, Tensor data, const Tensor& positions_any,
              const Tensor& block_table, std::optional<Tensor> cu_seqlens_q, int64_t page_size) {
  check(k_any.dim() == 4 && v_any.dim() == 4, kWrite, "k and v must be (batch, kv_heads, q_len, dim)");
  check(v_any.size(0) == k_any.size(0) && v_any.size(1) == k_any.size(1) && v_any.size(2) == k_any.size(2),
        kWrite, "v must have k's batch, heads and length");
  check_same_dtype(k_any, v_any, kWrite, "v");
  check_same_dtype(k_any, data, kWrite, "cache");
  const int64_t batch = k_any.size(0), q_len = k_any.size(2);
  const PageLayout layout = layout_of(data, page_size, k_any.size(3), v_any.size(3), kWrite);
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
  const int64_t capacity = table.columns() * page_size;
  std::vector<WriteKv::Token> tokens;
  tokens.reserve(positions.size());
  int64_t sequence = 0;
  for (int64_t i = 0; i < batch * q_len; ++i) {
    const int64_t position = positions[static_cast<size_t>(i)];
    if (position < 0) continue;
    check_value(position < capacity, kWrite, [&] {
      return "positions must be below the capacity of block_table, " + std::to_string(capacity) + ", got " +
             std::to_string(position);
    });
    while (cu_seqlens_q && i >= ends[static_cast<size_t>(sequence) + 1]) ++sequence;
    const int64_t page =
        page_id(table, cu_seqlens_q ? sequence : i / q_len, position / page_size, data.size(0), kWrite);
    tokens.push_back({i / q_len, i % q_len, page, position % page_size});
  }
  if (tokens.empty()) return;
  const Tensor k = with_dense_rows(k_any), v = with_dense_rows(v_any);
  attention::write_kv({.dtype = dtype_of(k, kWrite, "k"),
                       .kv_heads = k.size(1),
                       .k = heads_of(k),
                       .v = heads_of(v),
                       .data = data.mutable_data_ptr(),
                       .layout = layout,
                       .page_stride = data.stride(0),
                       .head_stride = data.stride(1),
                       .token = tokens.data(),
                       .tokens = static_cast<int64_t>(tokens.size())});
}

// The sequences, and the pages that they touch one after the other.
struct Batch {
  std::vector<Sequence> sequences;
  std::vector<int64_t> pages;
};

Batch batch_of(const Tensor& q, const Tensor& data, const Tensor& block_table, const Tensor& lengths_any,
               const std::optional<Tensor>& prefix_length, const std::optional<Tensor>& cu_seqlens_q,
               int64_t page_size) {
  const std::vector<int64_t> lengths = integers(lengths_any, kAttend, "lengths");
  const IntegerTable table(block_table, kAttend, "block_table");
  const int64_t count = static_cast<int64_t>(lengths.size()), capacity = table.columns() * page_size;
  const int64_t pages = data.size(0), q_len = q.size(2);
  std::vector<int64_t> ends, prefix;
  if (cu_seqlens_q) ends = borders(*cu_seqlens_q, q.size(2), kAttend, "cu_seqlens_q");
  if (prefix_length) prefix = integers(*prefix_length, kAttend, "prefix_length");
  check(count == (cu_seqlens_q ? static_cast<int64_t>(ends.size()) - 1 : q.size(0)), kAttend,
        "lengths must have one entry per sequence");
  check(!cu_seqlens_q || q.size(0) == 1, kAttend, "a packed batch has one row");
  check(block_table.size(0) == count, kAttend, "block_table must have one row per sequence");
  check(!prefix_length || prefix.size() == lengths.size(), kAttend,
        "prefix_length must have one entry per sequence");
  Batch batch;
  batch.sequences.reserve(lengths.size());
  for (int64_t i = 0; i < count; ++i) {
    const size_t n = static_cast<size_t>(i);
    check_value(lengths[n] >= 0 && lengths[n] <= capacity, kAttend, [&] {
      return "lengths must lie in [0, " + std::to_string(capacity) + "], the capacity of block_table, got " +
             std::to_string(lengths[n]);
    });
    check_value(!prefix_length || prefix[n] >= 0, kAttend,
                [] { return std::string("prefix_length must not be negative"); });
    batch.sequences.push_back({.batch = cu_seqlens_q ? 0 : i,
                               .first_query = cu_seqlens_q ? ends[n] : 0,
                               .q_len = cu_seqlens_q ? ends[n + 1] - ends[n] : q_len,
                               .first_key = 0,
                               .kv_len = lengths[n],
                               .prefix = prefix_length ? prefix[n] : 0,
                               .tiles_before = 0,
                               .blocks_before = 0,
                               .first_page = static_cast<int64_t>(batch.pages.size())});
    for (int64_t page = 0; page * page_size < lengths[n]; ++page) {
      batch.pages.push_back(page_id(table, i, page, pages, kAttend));
    }
  }
  return batch;
}

std::tuple<Tensor, Tensor> paged_attention(const Tensor& q_any, const Tensor& data, const Tensor& block_table,
                                           const Tensor& lengths, std::optional<Tensor> sink_logits,
                                           std::optional<Tensor> alibi_slopes,
                                           std::optional<Tensor> prefix_length,
                                           std::optional<Tensor> cu_seqlens_q, int64_t page_size,
                                           int64_t value_dim, bool is_causal, std::optional<double> scale,
                                           std::optional<int64_t> window, int64_t sink_tokens,
                                           std::optional<double> softcap) {
  check(q_any.dim() == 4, kAttend, "q must be (batch, heads, q_len, head_dim)");
  check_same_dtype(q_any, data, kAttend, "cache");
  check(sink_tokens >= 0 && (!window || *window > 0) && value_dim >= 0, kAttend,
        "sink_tokens and value_dim must not be negative and window must be positive");
  const PageLayout layout = layout_of(data, page_size, q_any.size(3), value_dim, kAttend);
  const int64_t heads = q_any.size(1), kv_heads = data.size(1);
  check(kv_heads ? heads % kv_heads == 0 : heads == 0, kAttend, "heads must be a multiple of the cache's");
  const Tensor q = with_dense_rows(q_any);
  Batch batch = batch_of(q, data, block_table, lengths, prefix_length, cu_seqlens_q, page_size);
  const std::vector<double> sinks = per_head(sink_logits, heads, kAttend, "sink_logits");
  const std::vector<double> slopes = per_head(alibi_slopes, heads, kAttend, "alibi_slopes");
  const Problem p = {
      .dtype = dtype_of(q, kAttend, "q"),
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
      .pages = {data.const_data_ptr(), layout, data.stride(0), data.stride(1), batch.pages.data()}};
  Tensor out = new_heads(q, q.size(0), heads, p.tokens, value_dim);
  Tensor lse = new_lse(q, q.size(0), heads, p.tokens);
  if (lse.numel() > 0) attention::forward({p, heads_of(out), lse.mutable_data_ptr()});
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(
      "write_kv_(Tensor k, Tensor v, Tensor(a!) cache, Tensor positions, Tensor block_table, "
      "Tensor? cu_seqlens_q, int page_size) -> ()");
  m.def(
      "paged_attention(Tensor q, Tensor cache, Tensor block_table, Tensor lengths, Tensor? sink_logits, "
      "Tensor? alibi_slopes, Tensor? prefix_length, Tensor? cu_seqlens_q, int page_size, int value_dim, "
      "bool is_causal, float? scale, int? window, int sink_tokens, float? softcap) -> (Tensor out, Tensor "
      "lse)");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("write_kv_", TORCH_BOX(&write_kv));
  m.impl("paged_attention", TORCH_BOX(&paged_attention));
}

}  // namespace pyllm::binding
