// bf16 products with tile registers (core/amx_tiles.h); the other dtypes run the kernels of the level below.
//
// Arithmetic: a sum is one chain over ascending k of products of 32 k's, TDPBF16PS's own order, zero-filled
// at the end, then the bias in float, then one rounding. Neither rows nor roles nor blocks enter it, so every
// path below gives the same bits, for one row as for a thousand.
//
// One operand stays, packed once for all threads (resident); the other passes by (streamed). plan.h says
// which is which and which plays A, core/tile_pack.h what packing costs, core/amx_multiply.h how tiles are
// held.
//
// Few resident rows (at most 64, the streamed operand plays A and has contiguous k's: a layer's forward with
// few tokens, the weight streamed). Memory sets the speed, and nothing of the weight is copied:
//
//   pack resident                                          parallel, up to 64 rows x depth
//   for groups of 16 or 32 streamed rows                   parallel
//     for steps of 32 k's: tiles of A in place, of B packed, up to 4 tiles of sums
//     out = sums + bias, rounded
//
//   One token: 2 KB of weight a step cost 32 cycles of products, 64 B/cycle, where memory gives a core 3
//   to 6.
//
// Otherwise the loops of blocked.h, with chunks of up to 320 k's:
//
//   streamed panel     32 rows x 320 k's      20 KB   first-level cache, while all resident panels pass
//   streamed block    192 rows x 320 k's     120 KB   second-level cache, where its rows are contiguous
//   resident panel     32 rows x 320 k's      20 KB   from the second-level cache (512 rows: 320 KB)
//   sums              192 x 512 floats       384 KB   second-level cache, in registers for a pair of panels
//
//   Per pair of panels and chunk: 40 products of 16 cycles = 640 cycles; from the second-level cache 20 KB of
//   resident tiles and 4 KB of sums, 4 KB of sums back: 44 B/cycle, about what it gives. Shorter chunks move
//   more sums; longer ones crowd the first-level cache where two threads share it (2 x 20 KB of 48).
//   Per block: the stretch passes once from the third-level cache, 5.3 B/cycle.
//   Packing, for each 512 rows of the other operand: copied 0.04 cycles an element of the 1.0 that its
//   products take, 4%; interleaved 5%; transposed 10%.
//
// All figures are counts, made for Sapphire Rapids (48 KB and 2 MB of cache per core): nothing here has been
// timed on a machine with tiles.
#include "core/amx_multiply.h"
#include "core/levels.h"
#include "ops/linear/blocked.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {

extern const Kernels kernels_avx512;

namespace {

constexpr int64_t kInPlaceRows =
    4 * kTileRows;                          // resident rows up to which the other operand is read in place
constexpr int64_t kChunkSteps = 10;         // steps of 32 k's between two visits to the sums in memory
constexpr int64_t kForkElements = 1 << 15;  // of the operand read in place: they pay for a fork

struct TileKernel {
  using Scope = AllTiles;

  static int64_t chunk_steps(int64_t steps) { return even_piece(steps, kChunkSteps); }

  static void multiply(const Pair& pair) { multiply_panels(pair); }
};

// Sums of ATiles groups of streamed rows from `row` on: whole tiles in place, those at the edges from a
// packed copy.
template <int ATiles, int BTiles>
void sum_in_place(const Side& side, int64_t row, const Panels& resident, const Panels& copies) {
  constexpr int64_t kUnitRows = ATiles * kTileRows;
  const int64_t whole = row + kUnitRows <= side.rows ? side.depth / kTileDepth : 0;
  const int64_t row_bytes = side.stride * int64_t{sizeof(bfloat16)};
  const TileSource b = source_of(resident, 0, 0);
  zero_sums<ATiles, BTiles>();
  if (whole) {
    const int64_t next = row + 2 * kUnitRows <= side.rows ? row + kUnitRows : row;
    const TileSource a = {reinterpret_cast<const char*>(side.at(row, 0)), kLineBytes, kTileRows * row_bytes,
                          row_bytes};
    multiply_streamed<ATiles, BTiles>(a, b, whole, reinterpret_cast<const char*>(side.at(next, 0)));
  }
  for (int64_t step = whole; step < side.steps(); step += copies.steps) {
    const int64_t end = smaller(side.steps(), step + copies.steps);
    pack_window(side, Form::rows, {row, smaller(side.rows, row + kUnitRows), step, end}, copies);
    multiply<ATiles, BTiles>(source_of(copies, 0, 0), b.from(step), end - step);
  }
}

template <int ATiles, int BTiles, class Out>
void product_few_rows(const Product& p, const Plan& plan) {
  constexpr int64_t kUnitRows = ATiles * kTileRows;
  const Side& side = plan.streamed;
  const Scratch packed(side.steps() * BTiles * kTileFloats);
  const Panels resident = {packed.bytes(), BTiles, side.steps()};
  pack_resident(plan, 0, plan.resident.rows, resident);
  const int64_t grain = 1 + kForkElements / (side.depth + 1) / kUnitRows;
  parallel_for(0, ceil_div(side.rows, kUnitRows), grain, [&](int64_t begin, int64_t end) {
    const Scratch copied(kChunkSteps * ATiles * kTileFloats);
    const Panels copies = {copied.bytes(), ATiles, kChunkSteps};
    alignas(64) float sums[ATiles * BTiles * kTileSums];
    const AllTiles scope;
    for (int64_t unit = begin; unit < end; ++unit) {
      sum_in_place<ATiles, BTiles>(side, unit * kUnitRows, resident, copies);
      store_sums<ATiles, BTiles>(sums);
      finish_sums<Out>(p, plan, sums, ATiles, BTiles, unit * kUnitRows, 0);
    }
  });
}

Plan plan_with(const Product& p, bool resident_is_left, bool resident_is_a) {
  Plan plan = make_plan(p, resident_is_left, resident_is_a, Form::rows, Form::pairs);
  plan.in_place = !resident_is_a && plan.streamed.k_contiguous() && plan.resident.rows <= kInPlaceRows;
  return plan;
}

template <class Out>
void product_as(const Product& p, const Plan& plan) {
  if (!plan.in_place) return blocked_product<TileKernel, Out>(p, plan);
  const int64_t tiles = ceil_div(plan.resident.rows, kTileRows);
  if (tiles == 1) return product_few_rows<2, 1, Out>(p, plan);
  if (tiles == 2) return product_few_rows<2, 2, Out>(p, plan);
  if (tiles == 3) return product_few_rows<1, 3, Out>(p, plan);
  product_few_rows<1, 4, Out>(p, plan);
}

void run_product(const Product& p) {
  if (p.dtype != DType::bf16) return kernels_avx512.product(p);
  if (p.rows == 0 || p.columns == 0) return;
  const Plan plan = cheaper(cheaper(plan_with(p, true, true), plan_with(p, true, false)),
                            cheaper(plan_with(p, false, true), plan_with(p, false, false)));
  p.out_dtype == DType::f32 ? product_as<float>(p, plan) : product_as<bfloat16>(p, plan);
}

int64_t packed_floats_below(const Operand& right, int64_t columns, int64_t depth) {
  return kernels_avx512.packed_floats(right, columns, depth);
}

void pack_below(const Operand& right, int64_t columns, int64_t depth, float* to) {
  kernels_avx512.pack(right, columns, depth, to);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_product, packed_floats_below, pack_below};

}  // namespace pyllm::linear
