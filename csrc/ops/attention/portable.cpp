// Forward, at every vector level.
//
//   for each tile of <= 96 rows (queries x the heads that share a kv head):
//     for each block of 256 keys the tile can see, left to right:
//       scores  = rows . K^T        rows x columns, columns cut to what the tile's intervals touch
//       weights = 2^(scores - m)    m = ceil(row maximum): an integer
//       partial = weights . V
//       (m, l, out) of the row <- merged with the block's
//
// A block's result never depends on the blocks before it, so three schedules give the same bits:
//   many sequences and heads     each a task: blocks outermost, packed once into the second-level cache
//   few, with long queries       tiles in parallel over keys and values packed beforehand
//   few, with one tile each      blocks in parallel, packed where they are used, merged afterwards (decoding)
#include "core/aligned.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "ops/attention/scores.h"
#include "ops/attention/tile.h"

namespace pyllm::attention {
namespace {

// Per row: the integer maximum, the sum of weights 2^(score - maximum), and the weighted sum of values.
struct Sums {
  float *maximum, *sum, *out;
};

int64_t sums_size(const Problem& p, int64_t rows) { return rows * (p.value_dim + 2); }

Sums sums_at(float* memory, int64_t rows) { return {memory, memory + rows, memory + 2 * rows}; }

void clear(const Problem& p, const Sums& s, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) s.maximum[r] = -kInfinity;
  for (int64_t r = 0; r < rows; ++r) s.sum[r] = 0.0f;
  for (int64_t i = 0; i < rows * p.value_dim; ++i) s.out[i] = 0.0f;
}

// The largest score, rounded up. A row of NaN and masked scores gives 0: its weights must be NaN, not masked.
float row_maximum(const float* x, int64_t count) {
  Vec largest = set1(-kInfinity), nan = zero();
  for (int64_t i = 0; i < count; i += kLanes) largest = max(largest, load(x + i));
  const float maximum = reduce_max(largest);
  if (maximum > -kInfinity) return __builtin_ceilf(maximum);
  for (int64_t i = 0; i < count; i += kLanes) nan = nan + select(is_nan(load(x + i)), set1(1.0f), zero());
  return reduce_add(nan) > 0.0f ? 0.0f : -kInfinity;
}

// Scores become weights; returns their sum. With Mark, masked weights are written as kMaskedWeight.
template <bool Mark>
float exponentiate(float* x, int64_t count, float maximum) {
  Vec sum = zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec score = load(x + i);
    const Vec weight = exp2(score - set1(maximum));
    sum = sum + weight;
    store(x + i, Mark ? select(less(score, set1(-kLargest)), set1(kMaskedWeight), weight) : weight);
  }
  return reduce_add(sum);
}

void drop(const Problem& p, const RowSpan& span, float* weights) {
  alignas(64) float factor[kBlock];
  dropout_factors(p, span, factor);
  for (int64_t i = 0; i < span.count; i += kLanes) store(weights + i, load(weights + i) * load(factor + i));
}

// A block as products need it: keys transposed, values in rows.
struct PackedBlock {
  const float *keys, *values;
  bool values_finite;
};

int64_t packed_keys_size(const Problem& p) { return packed_size(p.head_dim, kBlock); }
int64_t packed_values_size(const Problem& p) { return packed_size(kBlock, p.value_dim); }

// Returns whether all values are finite.
template <class T>
bool pack(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b, float* keys, float* values) {
  pack_transposed<T>(p.k, s, kv_head, b, p.head_dim, keys);
  pack_keys<T>(p.v, s, kv_head, b, p.value_dim, values);
  return all_finite(values, packed_size(b.keys, p.value_dim));
}

void weights_of_row(const Problem& p, const RowSpan& span, bool mark, float* x, float* maximum, float* sum) {
  score_row(p, span, x);
  *maximum = row_maximum(x, span.count);
  if (*maximum == -kInfinity) {
    *sum = 0.0f;
    for (int64_t i = 0; i < span.count; ++i) x[i] = kMaskedWeight;
    return;
  }
  *sum = mark ? exponentiate<true>(x, span.count, *maximum) : exponentiate<false>(x, span.count, *maximum);
  if (p.dropout_p > 0) drop(p, span, x);
}

void weighted_values(const Problem& p, const float* weights, int64_t rows, const Block& b, const Columns& c,
                     const PackedBlock& packed, float* out) {
  const int64_t depth = smaller(c.last, b.keys) - c.first;
  if (!packed.values_finite) {
    sum_unmasked(weights + c.first, weights + c.first, kBlock, 1, rows, depth,
                 packed.values + c.first * kPanel, b.keys, p.value_dim, out, false);
    return;
  }
  gemm_part(weights + c.first, kBlock, packed.values, b.keys, c.first, depth, out, p.value_dim, rows,
            p.value_dim, false);
}

// One block's sums for one tile. `scores` holds row_count x kBlock floats.
void attend_block(const Problem& p, const Tile& t, const float* queries, const Block& b, const Columns& c,
                  const PackedBlock& packed, float* scores, const Sums& partial) {
  const int64_t rows = row_count(t);
  dot_products(queries, rows, packed.keys, p.head_dim, c, scores);
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const RowSpan span{t.s, head, query, b.first + c.first, c.last - c.first};
    weights_of_row(p, span, !packed.values_finite, scores + row * kBlock + c.first, partial.maximum + row,
                   partial.sum + row);
  });
  weighted_values(p, scores, rows, b, c, packed, partial.out);
}

// 2^n for integral n <= 0.
float power_of_two(float n) {
  if (!(n >= -126.0f)) return n != n ? n : 0.0f;
  return std::bit_cast<float>(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

// A block that a row does not see leaves it untouched.
void merge(const Problem& p, int64_t rows, const Sums& from, const Sums& into) {
  for (int64_t r = 0; r < rows; ++r) {
    if (from.maximum[r] == -kInfinity) continue;
    const float maximum = into.maximum[r] > from.maximum[r] ? into.maximum[r] : from.maximum[r];
    const float old_scale = power_of_two(into.maximum[r] - maximum);
    const float new_scale = power_of_two(from.maximum[r] - maximum);
    into.maximum[r] = maximum;
    into.sum[r] = into.sum[r] * old_scale + from.sum[r] * new_scale;
    const float* source = from.out + r * p.value_dim;
    float* out = into.out + r * p.value_dim;
    for_each_vec(p.value_dim, [&](int64_t i, int64_t lanes) {
      const Vec kept = load_lanes(out + i, lanes) * set1(old_scale);
      store_lanes(out + i, fma(load_lanes(source + i, lanes), set1(new_scale), kept), lanes);
    });
  }
}

// The sink joins as one more key without a value; then the division, and the logarithm.
template <class T>
void finish(const Forward& f, const Tile& t, const Sums& sums) {
  const Problem& p = f.problem;
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    double maximum = sums.maximum[row], sum = sums.sum[row];
    const float* from = sums.out + row * p.value_dim;
    const bool has_sink = p.sink_logits && p.sink_logits[head] != -kInfinity;
    if (has_sink) {
      const double sink = p.sink_logits[head] * 1.4426950408889634;
      if (maximum == -kInfinity) maximum = __builtin_ceil(sink);
      sum += __builtin_exp2(sink - maximum);
    }
    const bool seen = sums.maximum[row] != -kInfinity;
    const Vec divisor = set1(seen ? static_cast<float>(sum) : 1.0f);
    T* out = query_row<T>(f.out, t.s, head, query);
    for_each_vec(p.value_dim, [&](int64_t i, int64_t lanes) {
      store_lanes(out + i, load_lanes(from + i, lanes) / divisor, lanes);
    });
    const double lse = (maximum + __builtin_log2(sum)) * 0.6931471805599453;
    static_cast<float*>(f.lse)[row_index(p, t.s, head, query)] =
        seen || has_sink ? static_cast<float>(lse) : -kInfinity;
  });
}

// Keys and values of every block, packed once and read by all tiles.
struct PackedProblem {
  AlignedArray<float> keys, values;
  AlignedArray<bool> values_finite;
};

PackedBlock packed_block(const Problem& p, const PackedProblem& all, int64_t index) {
  return {all.keys.get() + index * packed_keys_size(p), all.values.get() + index * packed_values_size(p),
          all.values_finite[static_cast<size_t>(index)]};
}

template <class T>
PackedProblem pack_all(const Problem& p) {
  const int64_t count = p.blocks * p.kv_heads;
  PackedProblem all{make_aligned<float>(count * packed_keys_size(p)),
                    make_aligned<float>(count * packed_values_size(p)), make_aligned<bool>(count)};
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = locate(p, &Sequence::blocks_before, i / p.kv_heads);
      const Block b = make_block(s, i / p.kv_heads - s.blocks_before);
      all.values_finite[static_cast<size_t>(i)] =
          pack<T>(p, s, i % p.kv_heads, b, all.keys.get() + i * packed_keys_size(p),
                  all.values.get() + i * packed_values_size(p));
    }
  });
  return all;
}

template <class T>
void run_tiles(const Forward& f) {
  const Problem& p = f.problem;
  const PackedProblem packed = pack_all<T>(p);
  const int64_t rows = largest_tile(p);
  parallel_for(0, p.tiles * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const auto queries = make_aligned<float>(rows * p.head_dim), scores = make_aligned<float>(rows * kBlock);
    const auto total = make_aligned<float>(sums_size(p, rows)),
               part = make_aligned<float>(sums_size(p, rows));
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = locate(p, &Sequence::tiles_before, i / p.kv_heads);
      const int64_t kv_head = i % p.kv_heads;
      const Tile t = make_tile(p, s, kv_head, balanced(i / p.kv_heads - s.tiles_before, tile_count(p, s)));
      const Sums sums = sums_at(total.get(), row_count(t)), partial = sums_at(part.get(), row_count(t));
      load_rows<T>(p.q, t, p.head_dim, queries.get());
      clear(p, sums, row_count(t));
      for (int64_t block = 0; block < ceil_div(s.kv_len, kBlock); ++block) {
        const Block b = make_block(s, block);
        const Columns c = visible_columns(p, t, b);
        if (c.last == 0) continue;
        attend_block(p, t, queries.get(), b, c,
                     packed_block(p, packed, (s.blocks_before + block) * p.kv_heads + kv_head), scores.get(),
                     partial);
        merge(p, row_count(t), partial, sums);
      }
      finish<T>(f, t, sums);
    }
  });
}

// Sequences and kv heads in parallel.
template <class T>
void run_heads(const Forward& f) {
  const Problem& p = f.problem;
  const int64_t rows = largest_tile(p), tile_size = sums_size(p, rows);
  int64_t most_tiles = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    most_tiles = tile_count(p, p.sequence[i]) > most_tiles ? tile_count(p, p.sequence[i]) : most_tiles;
  }
  parallel_for(0, p.sequences * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const auto queries = make_aligned<float>(rows * p.head_dim), scores = make_aligned<float>(rows * kBlock);
    const auto keys = make_aligned<float>(packed_keys_size(p));
    const auto values = make_aligned<float>(packed_values_size(p));
    const auto total = make_aligned<float>(most_tiles * tile_size), part = make_aligned<float>(tile_size);
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = p.sequence[i / p.kv_heads];
      const int64_t kv_head = i % p.kv_heads, tiles = tile_count(p, s);
      for (int64_t n = 0; n < tiles; ++n) {
        const int64_t count = row_count(make_tile(p, s, kv_head, n));
        clear(p, sums_at(total.get() + n * tile_size, count), count);
      }
      for (int64_t block = 0; block < ceil_div(s.kv_len, kBlock); ++block) {
        const Block b = make_block(s, block);
        bool packed = false, finite = true;
        for (int64_t n = 0; n < tiles; ++n) {
          const Tile t = make_tile(p, s, kv_head, n);
          const Columns c = visible_columns(p, t, b);
          if (c.last == 0) continue;
          if (!packed) finite = pack<T>(p, s, kv_head, b, keys.get(), values.get());
          packed = true;
          load_rows<T>(p.q, t, p.head_dim, queries.get());
          const Sums partial = sums_at(part.get(), row_count(t));
          attend_block(p, t, queries.get(), b, c, {keys.get(), values.get(), finite}, scores.get(), partial);
          merge(p, row_count(t), partial, sums_at(total.get() + n * tile_size, row_count(t)));
        }
      }
      for (int64_t n = 0; n < tiles; ++n) {
        const Tile t = make_tile(p, s, kv_head, n);
        finish<T>(f, t, sums_at(total.get() + n * tile_size, row_count(t)));
      }
    }
  });
}

// For sequences of at most one tile each.
template <class T>
void run_blocks(const Forward& f) {
  const Problem& p = f.problem;
  const int64_t rows = largest_tile(p), size = sums_size(p, rows);
  const auto parts = make_aligned<float>(p.blocks * p.kv_heads * size);
  parallel_for(0, p.blocks * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const auto queries = make_aligned<float>(rows * p.head_dim), scores = make_aligned<float>(rows * kBlock);
    const auto keys = make_aligned<float>(packed_keys_size(p));
    const auto values = make_aligned<float>(packed_values_size(p));
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = locate(p, &Sequence::blocks_before, i / p.kv_heads);
      const Tile t = make_tile(p, s, i % p.kv_heads, 0);
      const Block b = make_block(s, i / p.kv_heads - s.blocks_before);
      const Sums partial = sums_at(parts.get() + i * size, row_count(t));
      const Columns c = s.q_len == 0 ? Columns{0, 0} : visible_columns(p, t, b);
      clear(p, partial, row_count(t));
      if (c.last == 0) continue;
      load_rows<T>(p.q, t, p.head_dim, queries.get());
      const bool finite = pack<T>(p, s, t.kv_head, b, keys.get(), values.get());
      attend_block(p, t, queries.get(), b, c, {keys.get(), values.get(), finite}, scores.get(), partial);
    }
  });
  parallel_for(0, p.sequences * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const auto total = make_aligned<float>(size);
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = p.sequence[i / p.kv_heads];
      if (s.q_len == 0) continue;
      const Tile t = make_tile(p, s, i % p.kv_heads, 0);
      const Sums sums = sums_at(total.get(), row_count(t));
      clear(p, sums, row_count(t));
      for (int64_t block = 0; block < ceil_div(s.kv_len, kBlock); ++block) {
        float* memory = parts.get() + ((s.blocks_before + block) * p.kv_heads + t.kv_head) * size;
        merge(p, row_count(t), sums_at(memory, row_count(t)), sums);
      }
      finish<T>(f, t, sums);
    }
  });
}

bool one_tile_each(const Problem& p) {
  for (int64_t i = 0; i < p.sequences; ++i) {
    if (p.sequence[i].q_len > tile_queries(p)) return false;
  }
  return true;
}

template <class T>
void forward_as(const Forward& f) {
  if (f.problem.sequences * f.problem.kv_heads >= kEnoughHeads) {
    run_heads<T>(f);
  } else if (one_tile_each(f.problem)) {
    run_blocks<T>(f);
  } else {
    run_tiles<T>(f);
  }
}

void run_forward(const Forward& f) {
  if (f.problem.dtype == DType::f32) forward_as<float>(f);
  if (f.problem.dtype == DType::bf16) forward_as<bfloat16>(f);
  if (f.problem.dtype == DType::f16) forward_as<float16>(f);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward};

}  // namespace pyllm::attention
