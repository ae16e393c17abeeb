// Where a tile finds a block of keys and values: in the pages of a cache, in ordinary tensors, or in float
// panels of a page's layout that are made from either.
#pragma once

#include "ops/attention/row_products.h"

namespace pyllm::attention {
namespace {

// A block of floats as one page of 256 keys.
[[maybe_unused]] inline PageLayout float_block(const Problem& p) {
  return page_layout(DType::f32, kBlock, p.head_dim, p.value_dim);
}

// The groups of a block whose pages lie where page_at(first key of the page, counted from the block's) says.
template <class T, class PageAt>
[[maybe_unused]] BlockView<T> view_pages(const PageLayout& at, const Block& b, const PageAt& page_at) {
  BlockView<T> view;
  view.run = at.page_size;
  view.value_width = at.value_width;
  int64_t g = 0;
  for (int64_t key = 0; key < b.keys; key += at.page_size) {
    const T* page = page_at(key);
    for (int64_t slot = 0; slot < at.page_size && key + slot < b.keys; slot += kKeyGroup, ++g) {
      view.keys[g] = page + at.key_group(slot);
      view.values[g] = page + at.value_row(slot);
    }
  }
  for (; g < kBlockGroups + kStretchGroups; ++g) {
    view.keys[g] = view.keys[g - 1];
    view.values[g] = view.values[g - 1];
  }
  view.after = view.values[g - 1];
  return view;
}

template <class T>
[[maybe_unused]] BlockView<T> view_cache(const Problem& p, const Sequence& s, int64_t kv_head,
                                         const Block& b) {
  const PagedKeys& pages = p.pages;
  const auto page_of = [&](int64_t key) {
    const int64_t page = pages.table[s.first_page + key / pages.layout.page_size];
    return static_cast<const T*>(pages.data) + kv_head * pages.head_stride + page * pages.page_stride;
  };
  BlockView<T> view = view_pages<T>(pages.layout, b, [&](int64_t key) { return page_of(b.first + key); });
  if (b.first + kBlock < s.kv_len) view.after = page_of(b.first + kBlock);
  return view;
}

[[maybe_unused]] inline BlockView<float> view_floats(const Problem& p, const Block& b, const float* block) {
  return view_pages<float>(float_block(p), b, [&](int64_t) { return block; });
}

template <class T>
[[maybe_unused]] RowsView<T> view_rows(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b) {
  return {key_row<const T>(p.k, s, kv_head, b.first),
          key_row<const T>(p.v, s, kv_head, b.first),
          p.k.token,
          p.v.token,
          b.keys,
          p.value_dim,
          ceil_div(p.value_dim, 16) * 16};
}

// Keys and values of a block of ordinary tensors as floats.
template <class T>
[[maybe_unused]] void pack_block(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b,
                                 float* block) {
  const PageLayout at = float_block(p);
  for (int64_t key = 0; key < b.keys; key += kKeyGroup) {
    pack_panel<kKeyGroup>(key_row<const T>(p.k, s, kv_head, b.first + key), 1, p.k.token, p.head_dim,
                          smaller(kKeyGroup, b.keys - key), block + at.key_group(key));
  }
  for (int64_t key = 0; key < b.keys; ++key) {
    const T* from = key_row<const T>(p.v, s, kv_head, b.first + key);
    float* to = block + at.value_row(key);
    for (int64_t d = 0; d < at.value_width; d += kLanes) {
      const int64_t lanes = clamp(p.value_dim - d, 0, kLanes);
      store(to + d, load_lanes(from + d, lanes));
    }
  }
}

// The same from pages of pairs.
template <class T>
[[maybe_unused]] void unpack_block(const Problem& p, const BlockView<T>& from, const Block& b, float* block) {
  const PageLayout at = float_block(p);
  for (int64_t key = 0; key < b.keys; key += kKeyGroup) {
    const T* pairs = from.keys[key / kKeyGroup];
    float* lines = block + at.key_group(key);
    for (int64_t d = 0; d < p.head_dim; d += 2) {
      for (int64_t lane = 0; lane < kKeyGroup; lane += kLanes) {
        const T* at_pair = pairs + d * kKeyGroup + lane * 2;
        store(lines + d * kKeyGroup + lane, load_half<0>(at_pair, 0));
        if (d + 1 < p.head_dim) store(lines + (d + 1) * kKeyGroup + lane, load_half<1>(at_pair, 0));
      }
    }
  }
  for (int64_t key = 0; key < b.keys; key += 2) {
    const T* pairs = from.values[key / kKeyGroup] + key % kKeyGroup * at.value_width;
    float* row = block + at.value_row(key);
    for (int64_t d = 0; d < at.value_width; d += kLanes) {
      store(row + d, load_half<0>(pairs + d * 2, 0));
      store(row + at.value_width + d, load_half<1>(pairs + d * 2, 0));
    }
  }
}

}  // namespace
}  // namespace pyllm::attention
