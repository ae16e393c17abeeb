// Forward on AMX tiles, bf16.
//
//   for each task: a tile of <= 96 rows (queries x the heads that share a kv head) against blocks of 256 keys
//     for each block the tile can see, left to right:
//       for each strip of 32 rows:      amx_strip.h
//         scores, weights, sums         the strip's products beside the weights of the strip before
//         (m, l, sums) of the rows <- merged with the block's
//
// forward_tasks.h says which thread does what when; this file where keys and values lie. Pages of a cache are
// in the tiles' order (packed_kv.h) and read in place, but for values of the last, partial 32 keys, and of
// pages of 16 keys, which are copied: a tile is 32 keys deep. Ordinary tensors are packed into that same
// order, beforehand where a kv head has several tiles: 4 cycles of shuffles per 64 bytes of keys, half that
// for values, 3% of the products of a sequence of 1024.
//
// A few rows (decoding) take the tiles of 16: products run at 64 bytes of keys or values in 16 cycles, many
// times what memory delivers, so neither narrower tiles nor a path of its own would gain anything.
#include "core/levels.h"
#include "ops/attention/amx_strip.h"
#include "ops/attention/block_source.h"
#include "ops/attention/forward_tasks.h"

namespace pyllm::attention {

extern const Kernels kernels_avx512;

namespace {

// A packed block is one page of 256 keys.
PageLayout packed_layout(const Problem& p) {
  return page_layout(DType::bf16, kBlock, p.head_dim, p.value_dim);
}

int64_t strips_of(int64_t rows) { return ceil_div(rows, kStripRows); }

struct AmxForward {
  using Type = bfloat16;

  struct Workspace {
    Workspace(const Problem& p, int64_t rows)
        : block_floats(packed_floats(p)),
          query_floats(strips_of(rows) * kStripRows * padded(p.head_dim) / 2),
          memory(2 * kStripRows * kScoreStride + sums_size(p, kStripRows) + sums_size(p, rows) +
                 3 * block_floats + query_floats),
          tiles(full_tiles()) {
      strip.scores[0] = memory.get();
      strip.scores[1] = strip.scores[0] + kStripRows * kScoreStride;
      strip.sums = strip.scores[1] + kStripRows * kScoreStride;
      total = strip.sums + sums_size(p, kStripRows);
      block = total + sums_size(p, rows);
      queries = reinterpret_cast<bfloat16*>(block + block_floats);
      copies = queries + 2 * query_floats;
      strip.values = copies + 2 * block_floats;
    }

    int64_t block_floats, query_floats;
    pyllm::Scratch memory;
    TileScope tiles;
    StripScratch strip;
    float *total, *block;
    bfloat16 *queries, *copies;
  };

  static int64_t packed_floats(const Problem& p) { return packed_layout(p).elements() / 2; }

  static void pack(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b, float* to) {
    const PageLayout at = packed_layout(p);
    auto* page = reinterpret_cast<bfloat16*>(to);
    const auto key = [&](int64_t i) { return key_row<const bfloat16>(p.k, s, kv_head, b.first + i); };
    const auto value = [&](int64_t i) { return key_row<const bfloat16>(p.v, s, kv_head, b.first + i); };
    const RowsOf keys{key, b.keys, p.head_dim};
    const RowsOf values{value, b.keys, p.value_dim};
    const int64_t count = ceil_div(b.keys, kAmxDepth) * kAmxDepth;
    for (int64_t i = 0; i < count; i += kKeyGroup) pack_columns(keys, i, page + at.key_group(i));
    pack_pairs(values, count, at.value_width, false, page + at.value_row(0));
  }

  static void load(const Problem& p, const Tile& t, const Workspace& space) {
    const auto query = [&](int64_t row) {
      return query_row<const bfloat16>(p.q, t.s, t.kv_head * t.group + row % t.group,
                                       t.first + row / t.group);
    };
    const RowsOf rows{query, row_count(t), p.head_dim};
    copy_rows(rows, strips_of(row_count(t)) * kStripRows, padded(p.head_dim), space.queries);
  }

  // Values of 32 keys in one piece, zero past the block's last key.
  static void copy_values(const BlockView<bfloat16>& view, const Block& b, int64_t first, bfloat16* to) {
    const int64_t line = 2 * view.value_width;
    const __m512i even_only = _mm512_set1_epi32(0xffff);
    for (int64_t key = first; key < first + kAmxDepth; key += 2, to += line) {
      const bfloat16* from = view.values[key / kKeyGroup] + key % kKeyGroup * view.value_width;
      for (int64_t i = 0; i < line; i += 2 * kLanes) {
        __m512i x = key < b.keys ? _mm512_loadu_si512(from + i) : _mm512_setzero_si512();
        if (key + 1 == b.keys) x = _mm512_and_si512(x, even_only);
        _mm512_storeu_si512(to + i, x);
      }
    }
  }

  static TileBlock view_pages(const Problem& p, const Tile& t, const Block& b, bfloat16* copies) {
    const BlockView<bfloat16> view = view_cache<bfloat16>(p, t.s, t.kv_head, b);
    TileBlock block = {{}, {}, p.pages.layout.key_depth, view.value_width};
    for (int64_t g = 0; g < kBlockGroups; ++g) block.keys[g] = view.keys[g];
    for (int64_t key = 0; key < b.keys; key += kAmxDepth) {
      const bool in_place = view.run >= kAmxDepth && key + kAmxDepth <= b.keys;
      bfloat16* copy = copies + key * view.value_width;
      if (!in_place) copy_values(view, b, key, copy);
      block.values[key / kAmxDepth] = in_place ? view.values[key / kKeyGroup] : copy;
    }
    return block;
  }

  static TileBlock view_packed(const Problem& p, const float* packed) {
    const PageLayout at = packed_layout(p);
    const auto* page = reinterpret_cast<const bfloat16*>(packed);
    TileBlock block = {{}, {}, at.key_depth, at.value_width};
    for (int64_t g = 0; g < kBlockGroups; ++g) block.keys[g] = page + at.key_group(g * kKeyGroup);
    for (int64_t n = 0; n < kBlock / kAmxDepth; ++n) block.values[n] = page + at.value_row(n * kAmxDepth);
    return block;
  }

  static void attend(const Problem& p, const Tile& t, const Block& b, const float* packed,
                     const Workspace& space, const Sums& into) {
    if (p.pages.data) {
      attend_tile(p, t, space.queries, b, view_pages(p, t, b, space.copies), space.strip, into);
      return;
    }
    if (!packed) pack(p, t.s, t.kv_head, b, space.block);
    attend_tile(p, t, space.queries, b, view_packed(p, packed ? packed : space.block), space.strip, into);
  }
};

// Other types, and codes, which become floats, are the vector kernels'.
void run_forward(const Forward& f) {
  const bool codes = f.problem.pages.code != KvCode::none;
  if (f.problem.dtype != DType::bf16 || codes) return kernels_avx512.forward(f);
  run_forward_at<AmxForward>(f);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward};

}  // namespace pyllm::attention
