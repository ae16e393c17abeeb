// Tables of pages and the caches they point into: what the ops over a paged cache share.
#pragma once

#include "bindings/torch/attention_arguments.h"
#include "ops/attention/quantized_kv.h"

#define PYLLM_WRITE_KV_SCHEMA                                                              \
  "write_kv_(Tensor k, Tensor v, Tensor(a!) cache, Tensor positions, Tensor block_table, " \
  "Tensor? cu_seqlens_q, int page_size, str? quantization=None) -> ()"
#define PYLLM_PAGED_ATTENTION_SCHEMA                                                                  \
  "paged_attention(Tensor q, Tensor cache, Tensor block_table, Tensor lengths, Tensor? sink_logits, " \
  "Tensor? alibi_slopes, Tensor? prefix_length, Tensor? cu_seqlens_q, int page_size, int value_dim, " \
  "bool is_causal, float? scale, int? window, int sink_tokens, float? softcap, str? "                 \
  "quantization=None) -> (Tensor out, Tensor lse)"

namespace pyllm::binding {

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

inline attention::KvCode kv_code_of(const std::optional<std::string>& quantization, const char* op) {
  if (!quantization) return attention::KvCode::none;
  check(*quantization == "int8" || *quantization == "int4", op, "quantization must be int8 or int4");
  return *quantization == "int8" ? attention::KvCode::int8 : attention::KvCode::int4;
}

// The layout of a page; `dtype`: of queries and new tokens, and of the cache where that is not quantized.
inline attention::PageLayout page_layout_of(const Tensor& data, DType dtype, attention::KvCode code,
                                            int64_t page_size, int64_t head_dim, int64_t value_dim,
                                            const char* op) {
  check(attention::is_page_size(page_size), op, "page_size must be 16, 32, 64, 128 or 256");
  const attention::PageLayout layout = attention::page_layout(dtype, page_size, head_dim, value_dim);
  int64_t elements = layout.elements();
  if (code != attention::KvCode::none) {
    check(data.scalar_type() == ScalarType::Byte, op, "a quantized cache must be uint8");
    elements = attention::quantized_layout(code, page_size, head_dim, value_dim).bytes();
  } else {
    check(dtype_of(data, op, "cache") == dtype, op, "cache must have the dtype of the other tensors");
  }
  if (data.dim() != 3 || data.size(2) != elements) {
    check(false, op, "cache must be (pages, kv_heads, " + std::to_string(elements) + ")");
  }
  check(data.size(2) <= 1 || data.stride(2) == 1, op, "pages of the cache must be contiguous");
  return layout;
}

// The id of a page as block_table has it.
inline int64_t page_id(const IntegerTable& table, int64_t row, int64_t column, int64_t pages,
                       const char* op) {
  const int64_t page = table.at(row, column);
  check_value(page >= 0 && page < pages, op, [&] {
    return "block_table must hold pages in [0, " + std::to_string(pages) + "), got " + std::to_string(page) +
           " at (" + std::to_string(row) + ", " + std::to_string(column) + ")";
  });
  return page;
}

// Where new tokens go: `q_len` of each row of the table, or with borders `ends` those of one sequence after
// the other. Negative positions are padding.
inline std::vector<attention::WriteKv::Token> new_tokens(const std::vector<int64_t>& positions, int64_t q_len,
                                                         const std::vector<int64_t>& ends,
                                                         const IntegerTable& table, int64_t pages,
                                                         int64_t page_size, const char* op) {
  const int64_t capacity = table.columns() * page_size;
  std::vector<attention::WriteKv::Token> tokens;
  tokens.reserve(positions.size());
  int64_t sequence = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(positions.size()); ++i) {
    const int64_t position = positions[static_cast<size_t>(i)];
    if (position < 0) continue;
    check_value(position < capacity, op, [&] {
      return "positions must be below the capacity of block_table, " + std::to_string(capacity) + ", got " +
             std::to_string(position);
    });
    while (!ends.empty() && i >= ends[static_cast<size_t>(sequence) + 1]) ++sequence;
    const int64_t page = page_id(table, ends.empty() ? i / q_len : sequence, position / page_size, pages, op);
    tokens.push_back({i / q_len, i % q_len, page, position % page_size});
  }
  return tokens;
}

// The sequences, and the pages that they touch one after the other.
struct Batch {
  std::vector<attention::Sequence> sequences;
  std::vector<int64_t> pages;
};

// Queries of a padded batch, or one row of all with borders.
struct QueryRows {
  int64_t batch, length;
};

inline Batch batch_of(const QueryRows& q, int64_t pages, const Tensor& block_table, const Tensor& lengths_any,
                      const std::optional<Tensor>& prefix_length, const std::optional<Tensor>& cu_seqlens_q,
                      int64_t page_size, const char* op) {
  const std::vector<int64_t> lengths = integers(lengths_any, op, "lengths");
  const IntegerTable table(block_table, op, "block_table");
  const int64_t count = static_cast<int64_t>(lengths.size()), capacity = table.columns() * page_size;
  const int64_t q_len = q.length;
  std::vector<int64_t> ends, prefix;
  if (cu_seqlens_q) ends = borders(*cu_seqlens_q, q.length, op, "cu_seqlens_q");
  if (prefix_length) prefix = integers(*prefix_length, op, "prefix_length");
  check(count == (cu_seqlens_q ? static_cast<int64_t>(ends.size()) - 1 : q.batch), op,
        "lengths must have one entry per sequence");
  check(!cu_seqlens_q || q.batch == 1, op, "a packed batch has one row");
  check(block_table.size(0) == count, op, "block_table must have one row per sequence");
  check(!prefix_length || prefix.size() == lengths.size(), op,
        "prefix_length must have one entry per sequence");
  Batch batch;
  batch.sequences.reserve(lengths.size());
  for (int64_t i = 0; i < count; ++i) {
    const size_t n = static_cast<size_t>(i);
    check_value(lengths[n] >= 0 && lengths[n] <= capacity, op, [&] {
      return "lengths must lie in [0, " + std::to_string(capacity) + "], the capacity of block_table, got " +
             std::to_string(lengths[n]);
    });
    check_value(!prefix_length || prefix[n] >= 0, op,
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
      batch.pages.push_back(page_id(table, i, page, pages, op));
    }
  }
  return batch;
}

}  // namespace pyllm::binding
