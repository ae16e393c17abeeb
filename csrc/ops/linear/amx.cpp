// bf16 products with tile registers (core/amx_tiles.h); the other dtypes run the kernels of the level below.
//
// Arithmetic: a sum is one chain over ascending k of products of 32 k's, TDPBF16PS's own order, zero-filled
// at the end, then the bias in float, then one rounding. Neither rows nor roles nor blocks enter it, so every
// path below gives the same bits, for one row as for a thousand.
//
// One operand stays, packed once for all threads (resident); the other passes by (streamed). amx_plan.h says
// which is which and which plays A, amx_pack.h what packing costs, amx_multiply.h how tiles are held.
//
// Few resident rows (at most 64, the streamed operand plays A and has contiguous k's: a layer's forward with
// few tokens, the weight streamed): memory sets the speed, and nothing of the weight is copied.
//
//   pack resident                                          parallel, up to 64 rows x depth
//   for groups of 16 or 32 streamed rows                   parallel
//     for steps of 32 k's: tiles of A in place, of B packed, up to 4 tiles of sums
//     out = sums + bias, rounded
//
//   One token: 2 KB of weight a step cost 32 cycles of products, 64 B/cycle, where memory gives a core 3
//   to 6.
//
// Otherwise:
//
//   for stretches of 512 resident rows                     serial
//     pack resident                                        parallel
//     for blocks of up to 6 panels (192 rows) streamed     parallel, each cut at panels of 32 rows
//       for chunks of up to 320 k's
//         pack streamed                                    120 KB, second-level cache
//         for panel streamed                               20 KB, first-level cache
//           for panel resident                             20 KB, from the second-level cache
//             2 x 2 tiles of sums in registers             384 KB of sums, second-level cache
//         after the last chunk: out = sums + bias, rounded
//
//   Per pair of panels and chunk: 40 products of 16 cycles = 640 cycles; from the second-level cache 20 KB of
//   resident tiles and 4 KB of sums, 4 KB of sums back: 44 B/cycle, about what it gives. Shorter chunks move
//   more sums; longer ones crowd the first-level cache where two threads share it (2 x 20 KB of 48).
//   Per block and depth k: the stretch passes once from the third-level cache, 5.3 B/cycle.
//   Packing, for each 512 rows of the other operand: copied 0.04 cycles an element of the 1.0 that its
//   products take, 4%; interleaved 5%; transposed 10%.
//
// All figures are counts, made for Sapphire Rapids (48 KB and 2 MB of cache per core): nothing here has been
// timed on a machine with tiles.
#include "core/kept_block.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/linear/amx_multiply.h"
#include "ops/linear/amx_pack.h"
#include "ops/linear/amx_plan.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {

extern const Kernels kernels_avx512;

namespace {

constexpr int64_t kPanelTiles = 2;  // row groups of a panel, of both operands
constexpr int64_t kPanelRows = kPanelTiles * kAmxRows;
constexpr int64_t kBlockPanels = 6;  // streamed panels that share a pass over the resident stretch
constexpr int64_t kChunkSteps = 10;  // steps of 32 k's between two visits to the sums in memory
constexpr int64_t kPackSteps = 16;   // of one panel: a unit of work when the resident operand is packed
constexpr int64_t kForkElements = 1 << 15;  // of the streamed operand: reading them pays for a fork
constexpr int64_t kForkProducts = 1 << 21;  // multiply-adds that pay for one

struct Packed {};  // tags of the blocks that threads keep
struct Streamed {};
struct Sums {};

// The pieces of `count` when it is cut into equal ones of at most `most`; 1 if there are none.
int64_t even_piece(int64_t count, int64_t most) {
  return count == 0 ? 1 : ceil_div(count, ceil_div(count, most));
}

TileSource packed_source(const Panels& panels, int64_t panel, int64_t step) {
  return {panels.tile(panel, step, 0), panels.step_bytes(), kTileBytes, kAmxRowBytes};
}

// --- output
// -------------------------------------------------------------------------------------------------

// VCVTNEPS2BF16 rounds as to_bf16_bits does, in 2 instructions instead of 10; it flushes denormals, which
// sums never are here.
void store_row(bfloat16* to, Vec v, int64_t lanes) {
#if defined(__AVX512BF16__)
  const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
#else
  const __m256i bits = to_bf16_bits(v);
#endif
  _mm256_mask_storeu_epi16(to, first_lanes(lanes), bits);
}
void store_row(float* to, Vec v, int64_t lanes) { store_partial(to, v, lanes); }

// One tile of sums at (row, column) of out, which may lie beyond its end: a pair of tiles holds a single one
// there.
template <class Out>
void finish_tile(const Product& p, const float* tile, bool transposed, int64_t row, int64_t column) {
  const int64_t rows = smaller(p.rows - row, kAmxRows), columns = smaller(p.columns - column, kAmxColumns);
  if (rows <= 0 || columns <= 0) return;
  alignas(64) float turned[kAmxElements];
  if (transposed) {
    transpose_words(tile, kAmxRowBytes, turned);
    tile = turned;
  }
  const Vec bias = p.bias ? load_lanes(static_cast<const bfloat16*>(p.bias) + column, columns) : zero();
  Out* out = static_cast<Out*>(p.out) + row * p.columns + column;
  for (int64_t i = 0; i < rows; ++i) {
    store_row(out + i * p.columns, load(tile + i * kAmxColumns) + bias, columns);
  }
}

// ATiles x BTiles tiles of sums, the first at rows `a` of operand A and `b` of operand B.
template <int ATiles, int BTiles, class Out>
void finish_tiles(const Product& p, const Plan& plan, const float* sums, int64_t a, int64_t b) {
  const bool transposed = plan.transposed_out();
  for (int64_t i = 0; i < ATiles; ++i) {
    for (int64_t j = 0; j < BTiles; ++j) {
      const int64_t row_a = a + i * kAmxRows, row_b = b + j * kAmxRows;
      finish_tile<Out>(p, sums + (i * BTiles + j) * kAmxElements, transposed, transposed ? row_b : row_a,
                       transposed ? row_a : row_b);
    }
  }
}

// --- few resident rows
// ----------------------------------------------------------------------------------------

void pack_resident(const Plan& plan, int64_t row, int64_t rows, const Panels& panels) {
  // Contiguous k's: stretches of one panel. Contiguous rows: two steps across eight panels, 64 pages of 512
  // bytes.
  const bool across = plan.resident.rows_contiguous();
  const int64_t unit_panels = across ? 8 : 1, unit_steps = across ? 2 : kPackSteps;
  const int64_t groups = ceil_div(ceil_div(rows, panels.panel_rows()), unit_panels);
  const int64_t units = groups * ceil_div(panels.steps, unit_steps);
  parallel_for(0, units, 4, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel = unit % groups * unit_panels, step = unit / groups * unit_steps;
      const int64_t first = panel * panels.panel_rows();
      const Window window = {row + first, row + smaller(rows, first + unit_panels * panels.panel_rows()),
                             step, smaller(panels.steps, step + unit_steps)};
      pack_window(plan.resident, plan.resident_role, window,
                  {panels.tile(panel, step, 0), panels.tiles, panels.steps});
    }
  });
}

// Sums of ATiles groups of streamed rows from `row` on: whole tiles in place, those at the edges from a
// packed copy.
template <int ATiles, int BTiles>
void sum_in_place(const Side& side, int64_t row, const Panels& resident, const Panels& copies) {
  constexpr int64_t kUnitRows = ATiles * kAmxRows;
  const int64_t whole = row + kUnitRows <= side.rows ? side.depth / kAmxDepth : 0;
  const int64_t row_bytes = side.operand.stride * int64_t{sizeof(bfloat16)};
  const TileSource b = packed_source(resident, 0, 0);
  zero_sums<ATiles, BTiles>();
  if (whole) {
    const int64_t next = row + 2 * kUnitRows <= side.rows ? row + kUnitRows : row;
    const TileSource a = {reinterpret_cast<const char*>(side.at(row, 0)), kAmxRowBytes, kAmxRows * row_bytes,
                          row_bytes};
    multiply_streamed<ATiles, BTiles>(a, b, whole, reinterpret_cast<const char*>(side.at(next, 0)));
  }
  for (int64_t step = whole; step < side.steps(); step += copies.steps) {
    const int64_t end = smaller(side.steps(), step + copies.steps);
    pack_window(side, Role::a, {row, smaller(side.rows, row + kUnitRows), step, end}, copies);
    multiply<ATiles, BTiles>(packed_source(copies, 0, 0), b.from(step), end - step);
  }
}

template <int ATiles, int BTiles, class Out>
void product_few_rows(const Product& p, const Plan& plan) {
  constexpr int64_t kUnitRows = ATiles * kAmxRows;
  const Side& side = plan.streamed;
  const KeptBlock<Packed> packed(side.steps() * BTiles * kTileBytes);
  const Panels resident = {packed.get(), BTiles, side.steps()};
  pack_resident(plan, 0, plan.resident.rows, resident);
  const int64_t grain = 1 + kForkElements / (side.depth + 1) / kUnitRows;
  parallel_for(0, ceil_div(side.rows, kUnitRows), grain, [&](int64_t begin, int64_t end) {
    const KeptBlock<Streamed> copied(kChunkSteps * ATiles * kTileBytes);
    const Panels copies = {copied.get(), ATiles, kChunkSteps};
    alignas(64) float sums[ATiles * BTiles * kAmxElements];
    const TileScope scope(full_tiles());
    for (int64_t unit = begin; unit < end; ++unit) {
      sum_in_place<ATiles, BTiles>(side, unit * kUnitRows, resident, copies);
      store_sums<ATiles, BTiles>(sums);
      finish_tiles<ATiles, BTiles, Out>(p, plan, sums, unit * kUnitRows, 0);
    }
  });
}

// --- many resident rows
// ---------------------------------------------------------------------------------------

// A stretch of the resident operand, packed.
struct Stretch {
  int64_t row, rows;
  Panels panels;
};

// One pair of panels and one chunk of k's.
struct Pair {
  TileSource a, b;
  int64_t row_a, row_b, steps;
  float* sums;  // where they stay between chunks
  bool first, last;
};

template <int ATiles, int BTiles, class Out>
void multiply_pair(const Product& p, const Plan& plan, const Pair& pair) {
  if (pair.first) {
    zero_sums<ATiles, BTiles>();
  } else {
    load_sums<ATiles, BTiles>(pair.sums);
  }
  multiply<ATiles, BTiles>(pair.a, pair.b, pair.steps);
  if (!pair.last) return store_sums<ATiles, BTiles>(pair.sums);
  alignas(64) float done[ATiles * BTiles * kAmxElements];
  store_sums<ATiles, BTiles>(done);
  finish_tiles<ATiles, BTiles, Out>(p, plan, done, pair.row_a, pair.row_b);
}

// The last panel of an operand may be a single tile wide.
template <class Out>
void multiply_any_pair(const Product& p, const Plan& plan, const Pair& pair, bool two_a, bool two_b) {
  if (two_a && two_b) return multiply_pair<2, 2, Out>(p, plan, pair);
  if (two_a) return multiply_pair<2, 1, Out>(p, plan, pair);
  if (two_b) return multiply_pair<1, 2, Out>(p, plan, pair);
  multiply_pair<1, 1, Out>(p, plan, pair);
}

// One task: streamed rows [row, end_row) times a stretch.
template <class Out>
void product_block(const Product& p, const Plan& plan, const Stretch& stretch, int64_t row, int64_t end_row,
                   const Panels& streamed, float* sums) {
  const int64_t steps = stretch.panels.steps;
  const bool resident_is_a = plan.resident_role == Role::a;
  for (int64_t step = 0; step < steps || step == 0; step += streamed.steps) {
    const int64_t end_step = smaller(steps, step + streamed.steps);
    pack_window(plan.streamed, plan.streamed_role(), {row, end_row, step, end_step}, streamed);
    float* pair_sums = sums;
    for (int64_t i = 0; row + i * kPanelRows < end_row; ++i) {
      for (int64_t j = 0; j * kPanelRows < stretch.rows; ++j, pair_sums += 4 * kAmxElements) {
        const TileSource mine = packed_source(streamed, i, 0),
                         theirs = packed_source(stretch.panels, j, step);
        const int64_t my_row = row + i * kPanelRows, their_row = stretch.row + j * kPanelRows;
        const bool two = end_row - my_row > kAmxRows, their_two = stretch.rows - j * kPanelRows > kAmxRows;
        const Pair pair = {.a = resident_is_a ? theirs : mine,
                           .b = resident_is_a ? mine : theirs,
                           .row_a = resident_is_a ? their_row : my_row,
                           .row_b = resident_is_a ? my_row : their_row,
                           .steps = end_step - step,
                           .sums = pair_sums,
                           .first = step == 0,
                           .last = end_step == steps};
        multiply_any_pair<Out>(p, plan, pair, resident_is_a ? their_two : two,
                               resident_is_a ? two : their_two);
      }
    }
  }
}

template <class Out>
void product_stretch(const Product& p, const Plan& plan, const Stretch& stretch) {
  const Side& side = plan.streamed;
  const int64_t steps = even_piece(stretch.panels.steps, kChunkSteps);
  const int64_t stretch_panels = ceil_div(stretch.rows, kPanelRows);
  const int64_t grain = 1 + kForkProducts / (side.depth + 1) / stretch.rows / kPanelRows;
  parallel_for(0, ceil_div(side.rows, kPanelRows), grain, [&](int64_t begin, int64_t end) {
    const int64_t block = even_piece(end - begin, kBlockPanels);
    const KeptBlock<Streamed> packed(block * steps * kPanelTiles * kTileBytes);
    const KeptBlock<Sums> sums(block * stretch_panels * 4 * kTileBytes);
    const TileScope scope(full_tiles());
    for (int64_t panel = begin; panel < end; panel += block) {
      product_block<Out>(p, plan, stretch, panel * kPanelRows,
                         smaller(side.rows, smaller(end, panel + block) * kPanelRows),
                         {packed.get(), kPanelTiles, steps}, reinterpret_cast<float*>(sums.get()));
    }
  });
}

template <class Out>
void product_many_rows(const Product& p, const Plan& plan) {
  const int64_t steps = plan.resident.steps(), panel_bytes = steps * kPanelTiles * kTileBytes;
  const int64_t fitting = kResidentBytes / (panel_bytes + 1) * kPanelRows;
  const int64_t most = fitting < kLeastResidentRows ? kLeastResidentRows : smaller(fitting, kResidentRows);
  const int64_t rows = ceil_div(even_piece(plan.resident.rows, most), kPanelRows) * kPanelRows;
  const KeptBlock<Packed> packed(rows / kPanelRows * panel_bytes);
  for (int64_t row = 0; row < plan.resident.rows; row += rows) {
    const Stretch stretch = {
        row, smaller(rows, plan.resident.rows - row), {packed.get(), kPanelTiles, steps}};
    pack_resident(plan, row, stretch.rows, stretch.panels);
    product_stretch<Out>(p, plan, stretch);
  }
}

// --- choice
// ---------------------------------------------------------------------------------------------------

template <class Out>
void product_as(const Product& p, const Plan& plan) {
  if (!plan.in_place) return product_many_rows<Out>(p, plan);
  const int64_t tiles = ceil_div(plan.resident.rows, kAmxRows);
  if (tiles == 1) return product_few_rows<2, 1, Out>(p, plan);
  if (tiles == 2) return product_few_rows<2, 2, Out>(p, plan);
  if (tiles == 3) return product_few_rows<1, 3, Out>(p, plan);
  product_few_rows<1, 4, Out>(p, plan);
}

void run_product(const Product& p) {
  if (p.dtype != DType::bf16) return kernels_avx512.product(p);
  if (p.rows == 0 || p.columns == 0) return;
  const Plan plan = cheapest_plan(p);
  p.out_dtype == DType::f32 ? product_as<float>(p, plan) : product_as<bfloat16>(p, plan);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_product};

}  // namespace pyllm::linear
