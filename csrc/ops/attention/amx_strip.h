// The forward pass of a tile's rows against one block of 256 keys, on tiles, in strips of 32 rows:
//
//   scores  = Q . K^T        32 x 256 floats; Q rows as they lie, K in groups of 16 keys (packed_kv.h)
//   weights = 2^(scores - m) row by row, rounded to bf16 in the place of the scores
//   sums    = weights . V    V in pairs of keys
//
//   strip      0               1               2
//   scores     T T T T T T T T
//   weights    V t V t V t V t V t ...         t: a piece of the next strip's scores
//   sums                       T T T T         V: four rows of this strip's weights
//
// A strip and a block are, at head size 64 (128), 128 (256) tile products for each of scores and sums, 2048
// (4096) cycles, and 512 vectors of weights at 11 instructions on two ports, 2800 cycles, or 5300 by the time
// that rows of 256 take on a Cascade Lake (docs/ops/attention.md). The products of the next strip's scores,
// 32 keys at a time (8 or 16 products, 128 or 256 cycles), are placed between every four rows of weights (350
// to 660 cycles), near enough for the core, which looks 512 instructions ahead, to run both at once. Counted,
// not timed: nobody has run this on tiles yet.
//
// Bytes: a strip's scores are 34 KB (rows 1088 bytes apart, so that they do not share cache sets) and leave
// the first-level cache for the second in part; keys and values are read from the second-level cache once a
// strip, 64 (128) KB in some 4100 (5300) cycles.
#pragma once

#include "core/exp2.h"
#include "ops/attention/amx_pack.h"
#include "ops/attention/amx_products.h"
#include "ops/attention/softmax_block.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kStripRows = 2 * kAmxRows;
constexpr int64_t kScoreBytes = kScoreStride * 4;
static_assert(kPanel == kAmxDepth, "columns of scores begin and end with a step of the sums");

// A block of 256 keys as tile products read it: groups of 16 keys, and values in steps of 32, whose keys past
// the block's last are zero.
struct TileBlock {
  const bfloat16* keys[kBlock / kAmxColumns];
  const bfloat16* values[kBlock / kAmxDepth];
  int64_t depth, width;  // of keys and values, with their padding
};

// Rows [first, first + rows) of a tile and the columns of a block they see.
struct RowRange {
  int64_t first, rows;
  Columns columns;
};

// The products of a strip's scores, 32 keys at a time.
class ScoreProducts {
 public:
  ScoreProducts(const bfloat16* queries, const TileBlock& block, const RowRange& strip, float* scores)
      : queries_(queries + strip.first * block.depth),
        block_(block),
        few_rows_(strip.rows <= kAmxRows),
        column_(strip.columns.first),
        last_(strip.columns.last),
        scores_(scores) {}

  // False if none was left.
  bool next() {
    if (column_ >= last_) return false;
    const int64_t group = column_ / kAmxColumns, stride = block_.depth * 2;
    const auto b = [&](int64_t step, int64_t c) { return block_.keys[group + c] + step * kAmxElements * 2; };
    if (few_rows_) {
      tile_product<1, 2>(queries_, stride, b, kStepBytes, 0, block_.depth / kAmxDepth, scores_ + column_,
                         kScoreBytes, false);
    } else {
      tile_product<2, 2>(queries_, stride, b, kStepBytes, 0, block_.depth / kAmxDepth, scores_ + column_,
                         kScoreBytes, false);
    }
    column_ += 2 * kAmxColumns;
    return true;
  }

 private:
  const bfloat16* queries_;
  const TileBlock& block_;
  bool few_rows_;
  int64_t column_, last_;
  float* scores_;
};

// Where a positive scale, intervals and a boolean mask are all there is, the scale goes into the exponent's
// multiply-add: padding hidden by such a mask leaves the bits of the padding that is not there.
[[maybe_unused]] inline bool needs_adjusting(const Problem& p) {
  return p.softcap > 0 || p.alibi_slopes || (p.mask.data && !p.mask.boolean) || !(p.scale > 0);
}

constexpr uint16_t kMaskedBits = 0x8000;  // kMaskedWeight

// 2^(x * factor - maximum) in bf16, over the scores x themselves; returns the sum of what is not yet rounded.
// Mark writes masked weights as kMaskedWeight. `kept`, if any, is the dropout's factor.
template <bool Mark>
[[maybe_unused]] float exponentiate(const float* x, int64_t count, float factor, float maximum,
                                    const float* kept, bfloat16* to) {
  const Vec scale = set1(factor), shift = set1(-maximum);
  Vec sum[2] = {zero(), zero()}, weight[2];
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const Vec score = load(x + i + j * kLanes);
      const Vec w = softmax_exp2<bfloat16>(fma(score, scale, shift));
      sum[j] = sum[j] + w;
      weight[j] = Mark ? select(less(score, set1(-kLargest)), set1(kMaskedWeight), w) : w;
      if (kept) weight[j] = weight[j] * load(kept + i + j * kLanes);
    }
    _mm512_storeu_si512(to + i, to_row(weight[0], weight[1]));
  }
  return reduce_add(sum[0] + sum[1]);
}

[[maybe_unused]] inline bool sees_all(const Problem& p, const RowSpan& span) {
  return covers(visible(p, span.s, span.query), span.key, span.key + span.count);
}

// Masks a row of scores and returns its integer maximum.
[[maybe_unused]] inline float masked_maximum(const Problem& p, const RowSpan& span, float* scores) {
  if (needs_adjusting(p)) {
    score_row(p, span, scores);
    return row_maximum(scores, span.count, 1.0f);
  }
  if (p.mask.data) add_dense_mask(p, span, scores);
  if (!sees_all(p, span)) hide(visible(p, span.s, span.query), span, scores);
  return row_maximum(scores, span.count, score_factor(p));
}

// The scores become weights; returns their sum.
[[maybe_unused]] inline float weigh_row(const Problem& p, const RowSpan& span, float maximum,
                                        const float* scores, bfloat16* weights) {
  if (maximum == -kInfinity) {
    const __m512i masked = _mm512_set1_epi16(static_cast<int16_t>(kMaskedBits));
    for (int64_t i = 0; i < span.count; i += 2 * kLanes) _mm512_storeu_si512(weights + i, masked);
    return 0.0f;
  }
  alignas(64) float factors[kBlock];
  const float* kept = nullptr;
  if (p.dropout_p > 0) {
    dropout_factors(p, span, factors);
    kept = factors;
  }
  const float factor = needs_adjusting(p) ? 1.0f : score_factor(p);
  return p.mask.data || !sees_all(p, span)
             ? exponentiate<true>(scores, span.count, factor, maximum, kept, weights)
             : exponentiate<false>(scores, span.count, factor, maximum, kept, weights);
}

// sums (rows x width) = weights . values over the strip's columns.
template <int Rows>
[[maybe_unused]] void value_products(const TileBlock& block, const Columns& c, const bfloat16* weights,
                                     float* sums) {
  const int64_t first = c.first / kAmxDepth, last = c.last / kAmxDepth, bytes = block.width * 4;
  int64_t d = 0;
  const auto b = [&](int64_t step, int64_t column) {
    return block.values[step] + (d + column * kAmxColumns) * 2;
  };
  for (; d + 2 * kAmxColumns <= block.width; d += 2 * kAmxColumns) {
    tile_product<Rows, 2>(weights, kScoreBytes, b, bytes, first, last, sums + d, bytes, false);
  }
  if (d < block.width) {
    tile_product<Rows, 1>(weights, kScoreBytes, b, bytes, first, last, sums + d, bytes, false);
  }
}

[[maybe_unused]] inline void sum_values(const TileBlock& block, const RowRange& strip,
                                        const bfloat16* weights, float* sums) {
  if (strip.rows <= kAmxRows) {
    value_products<1>(block, strip.columns, weights, sums);
  } else {
    value_products<2>(block, strip.columns, weights, sums);
  }
}

// Weight zero times NaN or infinity is NaN: where values of the block are not finite, sums are made of the
// finite ones, and each of the others joins the rows whose mask lets it. `finite` holds a block of values.
[[maybe_unused]] inline void sum_non_finite(const TileBlock& block, const RowRange& strip,
                                            const bfloat16* weights, bfloat16* finite, float* sums) {
  TileBlock cleaned = block;
  const int64_t size = kAmxDepth * block.width;
  for (int64_t k = strip.columns.first; k < strip.columns.last; k += kAmxDepth) {
    bfloat16* to = finite + k * block.width;
    for (int64_t i = 0; i < size; i += 2 * kLanes) {
      const __m512i x = _mm512_loadu_si512(block.values[k / kAmxDepth] + i);
      _mm512_storeu_si512(to + i, without_non_finite(x));
    }
    cleaned.values[k / kAmxDepth] = to;
  }
  sum_values(cleaned, strip, weights, sums);
  for (int64_t k = strip.columns.first; k < strip.columns.last; ++k) {
    for (int64_t d = 0; d < block.width; ++d) {
      const int64_t pair = k % kAmxDepth / 2 * 2;
      const float value = to_accumulator(block.values[k / kAmxDepth][pair * block.width + d * 2 + k % 2]);
      if (__builtin_isfinite(value)) continue;
      for (int64_t r = 0; r < strip.rows; ++r) {
        bfloat16 weight;
        std::memcpy(&weight, weights + r * kScoreStride * 2 + k, sizeof weight);
        if (weight.bits != kMaskedBits) sums[r * block.width + d] += to_accumulator(weight) * value;
      }
    }
  }
}

// The scratch of a tile: two strips of scores, one of sums, and a block of values.
struct StripScratch {
  float *scores[2], *sums;
  bfloat16* values;
};

constexpr int64_t kRowsAtOnce = 4;  // of weights, between two pieces of the next strip's scores

// What the rows of a strip are, found once: a division a row and block would take a tenth of the time.
class StripSpans {
 public:
  StripSpans(const Tile& t, const RowRange& strip, const Block& b)
      : t_(t), key_(b.first + strip.columns.first), count_(strip.columns.last - strip.columns.first) {
    int64_t query = t.first + strip.first / t.group, head = strip.first % t.group;
    for (int64_t r = 0; r < strip.rows; ++r) {
      query_[r] = query;
      head_[r] = t.kv_head * t.group + head;
      if (++head < t.group) continue;
      head = 0;
      ++query;
    }
  }

  RowSpan operator[](int64_t r) const { return {t_.s, head_[r], query_[r], key_, count_}; }

 private:
  const Tile& t_;
  int64_t key_, count_, query_[kStripRows], head_[kStripRows];
};

// Rows [first, last) of a strip become weights: the maxima of all before their weights, so that the chains of
// instructions through each maximum overlap. `scores` is the block's first column.
[[maybe_unused]] inline void weigh_rows(const Problem& p, const StripSpans& spans, const Columns& c,
                                        int64_t first, int64_t last, float* scores, const Sums& to) {
  for (int64_t r = first; r < last; ++r) {
    to.maximum[r] = masked_maximum(p, spans[r], scores + r * kScoreStride + c.first);
  }
  for (int64_t r = first; r < last; ++r) {
    float* x = scores + r * kScoreStride;
    auto* weights = reinterpret_cast<bfloat16*>(x) + c.first;
    to.sum[r] = weigh_row(p, spans[r], to.maximum[r], x + c.first, weights);
  }
}

// Joins a block to the sums of a tile's rows. `queries` holds them in whole strips.
[[maybe_unused]] inline void attend_tile(const Problem& p, const Tile& t, const bfloat16* queries,
                                         const Block& b, const TileBlock& block, const StripScratch& space,
                                         const Sums& into) {
  const Sums partial = sums_at(p, space.sums, kStripRows);
  const int64_t rows = row_count(t);
  const auto strip_at = [&](int64_t first) {
    const int64_t count = clamp(rows - first, 0, kStripRows);
    return RowRange{first, count, count ? strip_columns(p, t, first, count, b) : Columns{0, 0}};
  };
  RowRange strip = strip_at(0);
  ScoreProducts products(queries, block, strip, space.scores[0]);
  while (products.next()) continue;
  for (int64_t n = 0; strip.rows > 0; ++n) {
    const RowRange next_strip = strip_at(strip.first + kStripRows);
    float* scores = space.scores[n % 2];
    ScoreProducts next_products(queries, block, next_strip, space.scores[(n + 1) % 2]);
    const Columns c = strip.columns;
    const StripSpans spans(t, strip, b);
    for (int64_t first = 0; c.last > 0 && first < strip.rows; first += kRowsAtOnce) {
      const int64_t last = smaller(first + kRowsAtOnce, strip.rows);
      weigh_rows(p, spans, c, first, last, scores, partial);
      next_products.next();
    }
    while (next_products.next()) continue;
    if (c.last > 0) {
      const auto* weights = reinterpret_cast<const bfloat16*>(scores);
      sum_values(block, strip, weights, partial.out);
      if (!all_finite(partial.out, strip.rows * partial.width)) {
        sum_non_finite(block, strip, weights, space.values, partial.out);
      }
      merge(partial, into.from(strip.first), strip.rows);
    }
    strip = next_strip;
  }
}

}  // namespace
}  // namespace pyllm::attention
