// Backward on AMX tiles, bf16. With w the weights, g = dropout(grad_out V^T) and delta as in deltas.h:
//
//   grad_score = w (g - delta)     grad_v += dropout(w)^T grad_out     grad_k += grad_score^T Q
//                                                                      grad_q += grad_score K
//   for each kv head of each sequence:    queries and their gradients packed once, in strips of 64 rows
//     for each of 4 parts of the keys:    every fourth block of 128
//       for each block of the part:       amx_backward_block.h
//         for each strip that sees it
//       grad_q += the part's
//
// Sums over rows take the strips, sums over keys a part's blocks and then the parts in order: parts are cut
// by the keys' places alone, so a row of grad_q depends neither on its neighbours nor on who made which part.
// Where there are many sequences and kv heads each is a task; where there are few, their parts are, each with
// a grad_q of its own.
//
// Arithmetic: P and dS are rounded to bf16, every sum is the tiles' in float32. At head size 64 a strip
// against a block takes 5120 cycles of tile products and reads 32 KB of packed rows and 32 KB of grad_q's
// sums: 13 bytes a cycle, from the second-level cache up to some 2000 rows, from the third above.
#include "core/levels.h"
#include "core/scratch.h"
#include "ops/attention/amx_backward_block.h"
#include "ops/attention/deltas.h"

namespace pyllm::attention {

extern const BackwardKernels backward_kernels_avx512;

namespace {

constexpr int64_t kParts = 4;
// From this many sequences x kv heads on they alone keep the threads busy.
constexpr int64_t kEnoughHeads = 8;

int64_t grad_blocks(const Sequence& s) { return ceil_div(s.kv_len, kGradKeys); }

// grad_k and grad_v of a part's keys, and its share of grad_q.
void part_backward(const Backward& b, const Pair& pair, float* strips, int64_t part, GradBlock& block,
                   GradScratch& scratch, float* grad_q) {
  const Problem& p = b.problem;
  zero_fill(grad_q, pair.strips() * grad_q_floats(p));
  for (int64_t index = part; index < grad_blocks(pair.s); index += kParts) {
    load_block(p, pair, index, block);
    for (int64_t i = 0; i < pair.strips(); ++i) {
      strip_backward(p, pair, strip_at(p, pair, i, strips), block, scratch, grad_q + i * grad_q_floats(p));
    }
    write_keys(b.grad_k, pair, block, block.grad_k.get(), p.head_dim, gradient_factor(p));
    write_keys(b.grad_v, pair, block, block.grad_v.get(), p.value_dim, 1.0f);
  }
}

void add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(to + i) + load(from + i));
}

int64_t most_strips(const Problem& p) {
  int64_t most = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    const int64_t strips = ceil_div(p.sequence[i].q_len * group_size(p), kGradRows);
    most = strips > most ? strips : most;
  }
  return most;
}

// Sequences and kv heads in parallel.
void run_heads(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const int64_t most = most_strips(p), size = grad_q_floats(p);
  parallel_for(0, p.sequences * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const TileScope tiles(full_tiles());
    const auto scratch = make_aligned<GradScratch>(1);
    const pyllm::Scratch strips(most * strip_floats(p)), total(most * size), part(most * size);
    GradBlock block(p);
    for (int64_t n = begin; n < end; ++n) {
      const Pair pair = make_pair(p, n);
      for (int64_t i = 0; i < pair.strips(); ++i) {
        pack_strip(b, delta, pair, strip_at(p, pair, i, strips.get()));
      }
      part_backward(b, pair, strips.get(), 0, block, *scratch.get(), total.get());
      for (int64_t i = 1; i < smaller(kParts, grad_blocks(pair.s)); ++i) {
        part_backward(b, pair, strips.get(), i, block, *scratch.get(), part.get());
        add(part.get(), pair.strips() * size, total.get());
      }
      for (int64_t i = 0; i < pair.strips(); ++i) {
        write_grad_q(b, pair, i, total.get() + i * size, gradient_factor(p));
      }
    }
  });
}

// Parts in parallel; strips are packed before, and their grad_q summed afterwards.
void run_parts(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const int64_t pairs = p.sequences * p.kv_heads, most = most_strips(p), size = grad_q_floats(p);
  const pyllm::Scratch strips(pairs * most * strip_floats(p)), grad_q(pairs * kParts * most * size);
  const auto strips_of = [&](int64_t pair) { return strips.get() + pair * most * strip_floats(p); };
  const auto grad_q_of = [&](int64_t pair, int64_t part) {
    return grad_q.get() + (pair * kParts + part) * most * size;
  };
  parallel_for(0, pairs * most, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Pair pair = make_pair(p, n / most);
      if (n % most >= pair.strips()) continue;
      pack_strip(b, delta, pair, strip_at(p, pair, n % most, strips_of(n / most)));
    }
  });
  parallel_for(0, pairs * kParts, 1, [&](int64_t begin, int64_t end) {
    const TileScope tiles(full_tiles());
    const auto scratch = make_aligned<GradScratch>(1);
    GradBlock block(p);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t pair = n / kParts, part = balanced(n % kParts, kParts);
      part_backward(b, make_pair(p, pair), strips_of(pair), part, block, *scratch.get(),
                    grad_q_of(pair, part));
    }
  });
  parallel_for(0, pairs * most, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Pair pair = make_pair(p, n / most);
      const int64_t strip = n % most;
      if (strip >= pair.strips()) continue;
      float* total = grad_q_of(n / most, 0) + strip * size;
      for (int64_t i = 1; i < smaller(kParts, grad_blocks(pair.s)); ++i) {
        add(grad_q_of(n / most, i) + strip * size, size, total);
      }
      write_grad_q(b, pair, strip, total, gradient_factor(p));
    }
  });
}

// Other types, and the gradient of a dense mask, are the vector kernels'.
void run_backward(const Backward& b) {
  const Problem& p = b.problem;
  if (p.dtype != DType::bf16 || b.grad_mask) return backward_kernels_avx512.backward(b);
  const auto delta = make_aligned<float>(lse_size(p));
  row_deltas<bfloat16>(b, delta.get());
  if (b.grad_sink) sink_gradients(b, delta.get());
  if (p.sequences * p.kv_heads >= kEnoughHeads) {
    run_heads(b, delta.get());
  } else {
    run_parts(b, delta.get());
  }
}

}  // namespace

extern const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels);
const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels) = {run_backward};

}  // namespace pyllm::attention
