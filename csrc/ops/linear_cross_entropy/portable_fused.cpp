// Both directions in one, for float: three products instead of the four of a backward that makes the logits
// again.
//
// A token's gradients need its lse, that is all its logits, so the logits of a stretch of tokens are kept, 4%
// of all:
//
//   for stretch of tokens                           serial; about 1 / 24 of them
//     pack x twice: x^T for the logits, x for grad_weight
//     for block of weight rows                      parallel
//       pack the block                              kBlock x hidden floats: second-level cache
//       logits = block * x^T, kept;  per token: max, sum of exp, total, target's logit
//     per token: blocks merged in order, coefficients of the gradient
//     for run of blocks                             parallel, kRuns of them, fixed by the vocabulary
//       for block
//         g = gradient of the kept logits           in place
//         grad_weight block += g * x                in memory
//         grad_x of the run += g^T * block          block packed again, in panels
//     grad_x = sum of the runs, in order            parallel
//
// Why a tile leaves the second-level cache here: a logit written and read back costs 16 bytes of traffic, 1
// ns where two cores share 20 GB/s; making it again costs 2 * hidden FLOPs, 5 ns at 250 GFLOP/s and a hidden
// size of 576. What it costs besides: the weight is read twice and grad_weight is read and written once per
// stretch, 16 bytes for each 6 * stretch FLOPs of an element.
#include <cmath>
#include <cstring>
#include <vector>

#include "core/levels.h"
#include "core/parallel.h"
#include "ops/linear_cross_entropy/tiles.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int64_t kRuns = 8;
constexpr int64_t kStretches = 24;
constexpr int64_t kLeastTokens = 2 * kLanes;

// Tokens of a stretch: whole vectors, and no panel of a single one, whose products would wait for each other.
int64_t stretch_of(int64_t rows) {
  const int64_t tokens = smaller(ceil_div(rows, kStretches) / kLanes * kLanes, kMostTokens);
  if (tokens < kLeastTokens) return kLeastTokens;
  return tokens % kWidePanel == kLanes ? tokens - kLanes : tokens;
}

// Everything that the phases share.
struct Workspace {
  const ForwardBackward& fb;
  const Problem& p;
  const Rows& rows;
  const double* weight;
  Statistics* statistics;
  int64_t blocks, stretch;
  Chains chains;
  AlignedArray<float> logits;   // of all blocks
  AlignedArray<float> x_depth;  // x^T, packed for the logits
  AlignedArray<float> x;        // x, packed for grad_weight
  AlignedArray<float> grad_x;   // of each run
  Partials partials;

  Workspace(const ForwardBackward& f, const Rows& r, const double* w, Statistics* s)
      : fb(f),
        p(f.forward.problem),
        rows(r),
        weight(w),
        statistics(s),
        blocks(ceil_div(p.vocab, kBlock)),
        stretch(stretch_of(r.count)),
        chains(chains_of(p.hidden)),
        logits(make_aligned<float>(blocks * tile_floats())),
        x_depth(make_aligned<float>(packed_floats<kWidePanel>(chains, stretch))),
        x(make_aligned<float>(packed_size(stretch, p.hidden))),
        grad_x(make_aligned<float>(f.grad_x ? kRuns * stretch * p.hidden : 0)),
        partials(stretch, blocks) {}

  // A product's last rows read past a tile and drop what they get; a line between tiles keeps that out of
  // what another thread writes.
  int64_t tile_floats() const { return kBlock * stretch + kLineFloats; }
  Tile tile(int64_t first, int64_t count, int64_t block) const {
    const int64_t column = block * kBlock;
    return {first,  count, column, smaller(p.vocab - column, kBlock), logits.get() + block * tile_floats(),
            stretch};
  }
  float* grad_x_of(int64_t run) const { return grad_x.get() + run * stretch * p.hidden; }
};

void pack_stretch(const Workspace& w, int64_t first, int64_t count) {
  const int64_t hidden = w.p.hidden, token_panels = ceil_div(count, kTokens);
  Tasks tasks(token_panels + (w.fb.grad_weight ? panels(hidden) : 0));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto room = make_aligned<float>(kTokens * hidden);
    for (int64_t task; tasks.take(task);) {
      if (task < token_panels) {
        const int64_t t = task * kTokens;
        pack_tokens<float>(w.p, w.rows, first + t, smaller(kTokens, count - t), w.chains, room.get(),
                           w.x_depth.get() + t * w.chains.padded_depth());
      } else {
        const int64_t k = (task - token_panels) * kPanel;
        gather<float>(w.p, w.rows, first, count, k, smaller(kPanel, hidden - k), w.x.get() + k * count,
                      kPanel);
      }
    }
  });
}

// The tile's products, strip after strip: while one is multiplied, chain by chain, the rows of the next are
// asked for.
void multiply_strips(const Workspace& w, const Tile& tile, float* strip) {
  const int64_t hidden = w.p.hidden;
  const float* rows = static_cast<const float*>(w.p.weight) + tile.column * hidden;
  const int64_t shares = w.chains.count * w.chains.blocks * ceil_div(tile.count, kTokens);
  const int64_t share = ceil_div(kStripRows * hidden, shares * kLineFloats) * kLineFloats;
  for (int64_t v = 0; v < tile.columns; v += kStripRows) {
    const int64_t count = smaller(kStripRows, tile.columns - v);
    pack_matrix<kStripRows>(rows + v * hidden, 1, hidden, hidden, count, w.chains, strip);
    const float* next = rows + (v + kStripRows) * hidden;
    const float* end = rows + smaller(tile.columns, v + 2 * kStripRows) * hidden;
    for_each_chain(w.chains, [&](const Chains& chain, int64_t depth, bool first) {
      for (int64_t t = 0; t < tile.count; t += kTokens) {
        for (const float* stop = next + share; next < stop && next < end; next += kLineFloats) {
          __builtin_prefetch(next);
        }
        const float* panel = w.x_depth.get() + t * w.chains.padded_depth();
        panel_tile(count, tile.count - t, strip + depth * kStripRows, panel + depth * kTokens, chain, first,
                   tile.l + v * tile.stride + t, tile.stride);
      }
    });
  }
}

void make_logits(Workspace& w, int64_t first, int64_t count) {
  Tasks tasks(w.blocks);
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto strip = make_aligned<float>(kStripRows * w.chains.padded_depth());
    for (int64_t block; tasks.take(block);) {
      const Tile tile = w.tile(first, count, block);
      multiply_strips(w, tile, strip.get());
      finish_tile<float>(w.p, tile);
      summarize_tile(w.rows, tile, 0, w.partials, w.statistics);
    }
  });
}

// lse is rounded as forward returns it.
std::vector<Coefficients> coefficients(const Workspace& w, int64_t first, int64_t count) {
  std::vector<Coefficients> all;
  for (int64_t t = 0; t < count; ++t) {
    Statistics& s = w.statistics[first + t];
    w.partials.merge(t, s);
    const float lse = static_cast<float>(s.max + std::log(s.sum));
    all.push_back(coefficients_of(w.p, static_cast<double>(lse), w.weight[first + t], 0));
  }
  return all;
}

// The run's grad_x (+)= g^T * block, one panel of the block after the other, packed when its turn comes.
void add_grad_x(const Workspace& w, const Tile& tile, float* panel, bool first, float* grad_x) {
  const int64_t hidden = w.p.hidden;
  const float* block = static_cast<const float*>(w.p.weight) + tile.column * hidden;
  for (int64_t v = 0; v < tile.columns; v += kGradXDepth) {
    const int64_t depth = smaller(kGradXDepth, tile.columns - v);
    for (int64_t k = 0; k < hidden; k += kPanel) {
      const float* from = block + v * hidden + k;
      pack_panel<kPanel>(from, hidden, 1, depth, smaller(kPanel, hidden - k), panel);
      const float* next = k + kPanel < hidden ? from + kPanel : block;
      multiply_grad_x(tile.l + v * tile.stride, tile.stride, tile.count, depth, panel, {next, hidden},
                      smaller(kPanel, hidden - k), first && v == 0, grad_x + k, hidden);
    }
  }
}

// The gradients of a block's logits and what follows from them.
void use_block(const Workspace& w, const Tile& tile, const Coefficients* c, const LaneCoefficients* lanes,
               float* panel, bool first_of_run, float* grad_x) {
  const int64_t hidden = w.p.hidden;
  differentiate_tile(w.p, w.rows, tile, c, lanes);
  if (w.fb.grad_weight) {
    multiply_grad_weight(tile.l, tile.stride, tile.count, tile.columns, w.x.get(), hidden, tile.first == 0,
                         static_cast<float*>(w.fb.grad_weight) + tile.column * hidden, hidden);
  }
  if (w.fb.grad_bias) {
    add_grad_bias(tile.l, tile.stride, tile.count, tile.columns, tile.first == 0,
                  static_cast<float*>(w.fb.grad_bias) + tile.column);
  }
  if (w.fb.grad_x) add_grad_x(w, tile, panel, first_of_run, grad_x);
}

void use_logits(const Workspace& w, int64_t first, int64_t count) {
  const std::vector<Coefficients> c = coefficients(w, first, count);
  const auto lanes = lanes_of(c.data(), count);
  Tasks tasks(smaller(kRuns, w.blocks));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto panel = make_aligned<float>(kGradXDepth * kPanel);
    for (int64_t run; tasks.take(run);) {
      const int64_t begin = run * w.blocks / tasks.count, end = (run + 1) * w.blocks / tasks.count;
      for (int64_t block = begin; block < end; ++block) {
        use_block(w, w.tile(first, count, block), c.data(), lanes.get(), panel.get(), block == begin,
                  w.grad_x_of(run));
      }
    }
  });
}

void finish_grad_x(const Workspace& w, int64_t first, int64_t count) {
  const int64_t hidden = w.p.hidden, runs = smaller(kRuns, w.blocks);
  parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* to = static_cast<float*>(w.fb.grad_x) + w.rows.token[first + t] * hidden;
      for_each_vec(hidden, [&](int64_t k, int64_t lanes) {
        Vec sum = load_lanes(w.grad_x_of(0) + t * hidden + k, lanes);
        for (int64_t run = 1; run < runs; ++run)
          sum = sum + load_lanes(w.grad_x_of(run) + t * hidden + k, lanes);
        store_lanes(to + k, sum, lanes);
      });
    }
  });
}

void run(const ForwardBackward& fb, const Rows& rows, const double* weight, Statistics* statistics) {
  const Problem& p = fb.forward.problem;
  if (rows.count == 0) {
    if (fb.grad_weight) std::memset(fb.grad_weight, 0, size_t(p.vocab * p.hidden) * sizeof(float));
    if (fb.grad_bias) std::memset(fb.grad_bias, 0, size_t(p.vocab) * sizeof(float));
    return;
  }
  Workspace w(fb, rows, weight, statistics);
  for (int64_t first = 0; first < rows.count; first += w.stretch) {
    const int64_t count = smaller(w.stretch, rows.count - first);
    pack_stretch(w, first, count);
    make_logits(w, first, count);
    use_logits(w, first, count);
    if (fb.grad_x) finish_grad_x(w, first, count);
  }
}

}  // namespace

extern const FusedKernels PYLLM_LEVEL_TABLE(fused_kernels);
const FusedKernels PYLLM_LEVEL_TABLE(fused_kernels) = {run};

}  // namespace pyllm::linear_cross_entropy
