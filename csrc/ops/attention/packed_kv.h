// Keys and values as attention reads them: the layout of a page of the KV cache, which is also that of a
// block packed on the fly. A page holds `page_size` tokens of one kv head, keys first, then values, laid out
// so that neither the vector kernels nor the AMX tiles ever rearrange it:
//
//   16-bit   keys    per 16 keys: [head_dim / 2][16 keys][2]      the right operand of Q K^T, pairs along d
//            values  [keys / 2][value_dim][2]                     the right operand of P V, pairs along keys
//   others   keys    per 16 keys: [head_dim][16 keys]
//            values  [keys][value_dim]
//
// Padding, written as zeros with every row: head_dim to 32 where there are pairs, value_dim to 16. Every
// group of 16 keys and every row of values then begins on a cache line.
//
// Pages come zeroed, but a page that is used again still holds its old tokens: what lies at or past a
// sequence's length is undefined, NaN included. Readers must not let it reach a sum: scores of such keys are
// masked; sums over values end at the length or run over a copy whose tail is zero.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::attention {

constexpr int64_t kKeyGroup = 16;  // keys side by side: the columns of a tile, a cache line of floats

// What a page holds: elements of the queries' dtype, or codes (quantized_kv.h).
enum class KvCode { none, int8, int4 };

// Pages divide the block of 256 keys and hold whole groups.
constexpr bool is_page_size(int64_t n) { return n == 16 || n == 32 || n == 64 || n == 128 || n == 256; }

// Where the elements of a page lie, counted in elements.
struct PageLayout {
  bool paired;  // 16-bit elements
  int64_t page_size, head_dim, value_dim;
  int64_t key_depth, value_width;  // head_dim and value_dim with their padding

  constexpr int64_t keys_size() const { return page_size * key_depth; }
  constexpr int64_t elements() const { return page_size * (key_depth + value_width); }

  // First element of the group of 16 keys that begins at token `key`.
  constexpr int64_t key_group(int64_t key) const { return key * key_depth; }
  constexpr int64_t key_at(int64_t key, int64_t d) const {
    const int64_t group = key_group(key / kKeyGroup * kKeyGroup), column = key % kKeyGroup;
    return group + (paired ? d / 2 * 2 * kKeyGroup + column * 2 + d % 2 : d * kKeyGroup + column);
  }
  // First element of the values of token `key`; for 16-bit elements `key` is even and the next one's lie
  // between.
  constexpr int64_t value_row(int64_t key) const { return keys_size() + key * value_width; }
  constexpr int64_t value_at(int64_t key, int64_t d) const {
    return paired ? value_row(key / 2 * 2) + d * 2 + key % 2 : value_row(key) + d;
  }
};

constexpr PageLayout page_layout(DType dtype, int64_t page_size, int64_t head_dim, int64_t value_dim) {
  const bool paired = size_of(dtype) == 2;
  return {paired,
          page_size,
          head_dim,
          value_dim,
          paired ? (head_dim + 31) / 32 * 32 : head_dim,
          (value_dim + 15) / 16 * 16};
}

namespace {

// Writes one token's key and value into a page, padding included.
template <class T>
[[maybe_unused]] void pack_token(const PageLayout& at, int64_t token, const T* key, const T* value, T* page) {
  T* keys = page + at.key_at(token, 0);
  const int64_t next = at.paired ? 1 : kKeyGroup;
  for (int64_t d = 0; d + 1 < at.key_depth; d += 2) {
    keys[d * kKeyGroup] = d < at.head_dim ? key[d] : T{};
    keys[d * kKeyGroup + next] = d + 1 < at.head_dim ? key[d + 1] : T{};
  }
  if (at.key_depth % 2) keys[(at.key_depth - 1) * kKeyGroup] = key[at.key_depth - 1];
  T* values = page + at.value_at(token, 0);
  const int64_t step = at.paired ? 2 : 1;
  for (int64_t d = 0; d < at.value_dim; ++d) values[d * step] = value[d];
  for (int64_t d = at.value_dim; d < at.value_width; ++d) values[d * step] = T{};
}

template <class T>
[[maybe_unused]] void unpack_token(const PageLayout& at, int64_t token, const T* page, T* key, T* value) {
  for (int64_t d = 0; d < at.head_dim; ++d) key[d] = page[at.key_at(token, d)];
  for (int64_t d = 0; d < at.value_dim; ++d) value[d] = page[at.value_at(token, d)];
}

}  // namespace

// The KV cache of a batch: page `table[s.first_page + n]` holds keys [n * page_size, (n + 1) * page_size) of
// sequence s, for every kv head.
struct PagedKeys {
  const void* data;  // null where keys and values are ordinary tensors
  PageLayout layout;
  int64_t page_stride, head_stride;  // elements, of codes bytes
  const int64_t* table;
  KvCode code = KvCode::none;  // of codes, layout gives the sizes alone
};

}  // namespace pyllm::attention
