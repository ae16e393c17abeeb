// A block of a quantized cache as float panels (block_source.h). Its products cost the same as any other
// block's; this adds a load, a conversion, a multiplication and a store per vector, and the block then lies
// in the cache of its core, where the codes are a quarter or an eighth of the floats' way from memory.
#pragma once

#include "core/words.h"
#include "ops/attention/block_source.h"
#include "ops/attention/quantized_kv.h"

namespace pyllm::attention {
namespace {

struct Scales {
  Vec step, smallest;
};

// kLanes int4 scales, one behind the other.
[[maybe_unused]] inline Scales split_pairs(Words pairs) {
  return {reinterpret_cast<Vec>(pairs & 0xffff0000u), reinterpret_cast<Vec>(pairs << 16)};
}

[[maybe_unused]] inline Vec low_values(Words bytes, const Scales& s) {
  return fma(float_of(bytes & 15u), s.step, s.smallest);
}
[[maybe_unused]] inline Vec high_values(Words bytes, const Scales& s) {
  return fma(float_of(bytes >> 4), s.step, s.smallest);
}

// 16 keys of a page, from token `key` on, as [head_dim][16 keys].
[[maybe_unused]] inline void dequantize_keys(const QuantizedLayout& at, const uint8_t* page, int64_t key,
                                             float* to) {
  const uint8_t *codes = page + at.key_group(key), *scales = page + at.key_scales(key);
  for (int64_t lane = 0; lane < kKeyGroup; lane += kLanes) {
    if (at.code == KvCode::int8) {
      const Vec scale = reinterpret_cast<Vec>(load_words(scales + 4 * lane));
      for (int64_t d = 0; d < at.head_dim; ++d) {
        store(to + d * kKeyGroup + lane, load_signed_bytes(codes + d * kKeyGroup + lane) * scale);
      }
      continue;
    }
    for (int64_t d = 0; d < at.head_dim; d += 2) {
      const Scales s = split_pairs(load_words(scales + 4 * (d / kRun * kKeyGroup + lane)));
      const Words bytes = load_byte_words(codes + d / 2 * kKeyGroup + lane);
      store(to + d * kKeyGroup + lane, low_values(bytes, s));
      if (d + 1 < at.head_dim) store(to + (d + 1) * kKeyGroup + lane, high_values(bytes, s));
    }
  }
}

// A token's values; `width`: of a row of floats.
[[maybe_unused]] inline void dequantize_values(const QuantizedLayout& at, const uint8_t* page, int64_t token,
                                               int64_t width, float* to) {
  const uint8_t *codes = page + at.value_row(token), *scales = page + at.value_scales(token);
  if (at.code == KvCode::int8) {
    const Vec scale = set1(load_float(scales));
    for (int64_t d = 0; d < width; d += kLanes) store(to + d, load_signed_bytes(codes + d) * scale);
    return;
  }
  for (int64_t d = 0; d < width; d += kRun) {
    const Scales s = split_pairs(broadcast_word(scales + d / kRun * 4));
    for (int64_t lane = 0; lane < 16; lane += kLanes) {
      const Words bytes = load_byte_words(codes + d / 2 + lane);
      store(to + d + lane, low_values(bytes, s));
      if (d + 16 < width) store(to + d + 16 + lane, high_values(bytes, s));
    }
  }
}

[[maybe_unused]] inline void dequantize_block(const Problem& p, const Sequence& s, int64_t kv_head,
                                              const Block& b, float* block) {
  const PagedKeys& pages = p.pages;
  const int64_t page_size = pages.layout.page_size;
  const QuantizedLayout from = quantized_layout(pages.code, page_size, p.head_dim, p.value_dim);
  const PageLayout to = float_block(p);
  for (int64_t key = 0; key < b.keys; key += kKeyGroup) {
    const int64_t at = b.first + key, token = at % page_size;
    const uint8_t* page = static_cast<const uint8_t*>(pages.data) + kv_head * pages.head_stride +
                          pages.table[s.first_page + at / page_size] * pages.page_stride;
    dequantize_keys(from, page, token, block + to.key_group(key));
    for (int64_t i = 0; i < smaller(kKeyGroup, b.keys - key); ++i) {
      dequantize_values(from, page, token + i, to.value_width, block + to.value_row(key + i));
    }
  }
}

}  // namespace
}  // namespace pyllm::attention
