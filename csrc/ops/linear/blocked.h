// The loops of a bf16 product of packed tiles, around a kernel that multiplies one pair of panels. Included
// by amx.cpp and avx512_bf16.cpp; the picture and the counts are there.
//
//   for stretches of up to 512 resident rows               serial
//     pack resident                                        parallel
//     for blocks of up to 6 panels streamed                parallel, each cut at panels of 32 rows
//       for chunks of k's
//         for panel streamed: pack it
//           for panel resident: sums of 32 x 32 elements (+)= the kernel's products
//       after the last chunk: out = sums + bias, rounded once
//
// A kernel is a struct of
//   Scope                         held while a thread multiplies
//   chunk_steps(steps)            steps of 32 k's between two visits to the sums in memory
//   multiply(pair)                adds one chunk to the sums of one pair of panels
#pragma once

#include "core/parallel.h"
#include "core/scratch.h"
#include "core/tile_pack.h"
#include "core/vec.h"
#include "ops/linear/plan.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kBlockPanels = 6;         // streamed panels that share a pass over the resident stretch
constexpr int64_t kPackSteps = 16;          // a unit of work when the resident operand is packed
constexpr int64_t kForkProducts = 1 << 21;  // multiply-adds that pay for a fork,
constexpr int64_t kPackProducts = 64;       // packing an element counted as so many

// The pieces of `count` when it is cut into equal ones of at most `most`; 1 if there are none.
inline int64_t even_piece(int64_t count, int64_t most) {
  return count == 0 ? 1 : ceil_div(count, ceil_div(count, most));
}

// VCVTNEPS2BF16 rounds as to_bf16_bits does, in 2 instructions instead of 10; it flushes denormals, which
// sums never are here.
inline __m256i rounded(Vec v) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
#else
  return to_bf16_bits(v);
#endif
}

inline void store_lines(bfloat16* to, Vec first, Vec second, int64_t columns) {
  const __m512i line = _mm512_inserti64x4(_mm512_castsi256_si512(rounded(first)), rounded(second), 1);
  if (columns >= 2 * kLanes) {
    _mm512_storeu_si512(to, line);
  } else {
    _mm512_mask_storeu_epi16(to, (__mmask32{1} << columns) - 1, line);
  }
}

inline void store_lines(float* to, Vec first, Vec second, int64_t columns) {
  store_lanes(to, first, smaller(columns, kLanes));
  if (columns > kLanes) store_lanes(to + kLanes, second, smaller(columns - kLanes, kLanes));
}

// out = sums + bias for up to 16 rows and `columns` columns of two tiles side by side. Whole cache lines are
// written: rows of out often lie a multiple of 4 KB apart, and half lines would leave the first-level
// cache before their other half comes.
template <class Out>
void finish_tiles(const Product& p, const float* first, const float* second, int64_t row, int64_t column,
                  int64_t columns) {
  const int64_t rows = smaller(p.rows - row, kTileRows);
  const bfloat16* bias = p.bias ? static_cast<const bfloat16*>(p.bias) + column : nullptr;
  const int64_t lanes[2] = {smaller(columns, kLanes), smaller(columns - kLanes, kLanes)};
  const Vec add[2] = {bias ? load_lanes(bias, lanes[0]) : zero(),
                      bias && lanes[1] > 0 ? load_lanes(bias + kLanes, lanes[1]) : zero()};
  Out* out = static_cast<Out*>(p.out) + row * p.out_stride + column;
  for (int64_t i = 0; i < rows; ++i) {
    store_lines(out + i * p.out_stride, load(first + i * kLanes) + add[0], load(second + i * kLanes) + add[1],
                columns);
  }
}

// ATiles x BTiles tiles of sums, row after row of them, the first at rows `a` of operand A and `b` of B.
template <class Out>
void finish_sums(const Product& p, const Plan& plan, const float* sums, int64_t a_tiles, int64_t b_tiles,
                 int64_t a, int64_t b) {
  const bool turn = plan.transposed_out;
  const int64_t down = turn ? b_tiles : a_tiles, across = turn ? a_tiles : b_tiles;
  const int64_t row = turn ? b : a, column = turn ? a : b;
  alignas(64) float turned[2][kTileSums];
  for (int64_t i = 0; i < down && row + i * kTileRows < p.rows; ++i) {
    for (int64_t j = 0; j < across && column + j * kTileRows < p.columns; j += 2) {
      const int64_t columns = smaller(p.columns - column, smaller(across, j + 2) * kTileRows) - j * kTileRows;
      const float* tiles[2];
      for (int64_t t = 0; t < 2; ++t) {
        const int64_t near = smaller(j + t, across - 1);  // of an odd last one, its own copy
        tiles[t] = sums + (turn ? near * b_tiles + i : i * b_tiles + near) * kTileSums;
        if (turn) transpose_words(tiles[t], kLineBytes, turned[t]);
      }
      finish_tiles<Out>(p, turn ? turned[0] : tiles[0], turn ? turned[1] : tiles[1], row + i * kTileRows,
                        column + j * kTileRows, columns);
    }
  }
}

// Packs rows [row, row + rows) of the resident operand.
[[maybe_unused]] inline void pack_resident(const Plan& plan, int64_t row, int64_t rows,
                                           const Panels& panels) {
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
      pack_window(plan.resident, plan.resident_form, window,
                  {panels.tile(panel, step, 0), panels.tiles, panels.steps});
    }
  });
}

// A stretch of the resident operand, packed.
struct Stretch {
  int64_t row, rows;
  Panels panels;
};

// One task: streamed rows [row, end_row) times a stretch.
template <class Kernel, class Out>
void product_block(const Product& p, const Plan& plan, const Stretch& stretch, int64_t row, int64_t end_row,
                   const Panels& streamed, float* sums) {
  const int64_t steps = stretch.panels.steps;
  for (int64_t step = 0; step < steps || step == 0; step += streamed.steps) {
    const int64_t end_step = smaller(steps, step + streamed.steps);
    // Contiguous k's are packed panel by panel, into the same place of the first-level cache. Contiguous rows
    // are read in long pieces, across all panels.
    const bool across = plan.streamed.rows_contiguous();
    if (across) pack_window(plan.streamed, plan.streamed_form, {row, end_row, step, end_step}, streamed);
    float* pair_sums = sums;
    for (int64_t mine = row; mine < end_row; mine += kPanelRows) {
      const int64_t my_rows = smaller(end_row - mine, kPanelRows);
      const TileSource my_tiles = source_of(streamed, across ? (mine - row) / kPanelRows : 0, 0);
      if (!across) {
        pack_window(plan.streamed, plan.streamed_form, {mine, mine + my_rows, step, end_step}, streamed);
      }
      for (int64_t j = 0; j * kPanelRows < stretch.rows; ++j, pair_sums += kPairSums) {
        const TileSource tiles = source_of(stretch.panels, j, step);
        const int64_t rows = smaller(stretch.rows - j * kPanelRows, kPanelRows);
        const int64_t their = stretch.row + j * kPanelRows;
        const bool turn = plan.resident_is_a;
        const Pair pair = {turn ? tiles : my_tiles,
                           turn ? my_tiles : tiles,
                           turn ? rows : my_rows,
                           turn ? my_rows : rows,
                           end_step - step,
                           pair_sums,
                           step == 0};
        Kernel::multiply(pair);
        if (end_step < steps) continue;
        finish_sums<Out>(p, plan, pair_sums, ceil_div(pair.a_rows, kTileRows),
                         ceil_div(pair.b_rows, kTileRows), turn ? their : mine, turn ? mine : their);
      }
    }
  }
}

template <class Kernel, class Out>
void product_stretch(const Product& p, const Plan& plan, const Stretch& stretch) {
  const Side& side = plan.streamed;
  const int64_t steps = Kernel::chunk_steps(stretch.panels.steps);
  const int64_t stretch_panels = ceil_div(stretch.rows, kPanelRows);
  // A single resident panel: what is packed is used once, straight from the first-level cache.
  const int64_t most_panels = stretch_panels == 1 ? 1 : kBlockPanels;
  const int64_t grain = 1 + kForkProducts / (side.depth + 1) / (stretch.rows + kPackProducts) / kPanelRows;
  parallel_for(0, ceil_div(side.rows, kPanelRows), grain, [&](int64_t begin, int64_t end) {
    const int64_t block = even_piece(end - begin, most_panels);
    const Scratch packed(block * steps * kPanelTiles * kTileFloats);
    const Scratch sums(block * stretch_panels * kPairSums);
    [[maybe_unused]] const typename Kernel::Scope scope;
    for (int64_t panel = begin; panel < end; panel += block) {
      product_block<Kernel, Out>(p, plan, stretch, panel * kPanelRows,
                                 smaller(side.rows, smaller(end, panel + block) * kPanelRows),
                                 {packed.bytes(), kPanelTiles, steps}, sums.get());
    }
  });
}

template <class Kernel, class Out>
void blocked_product(const Product& p, const Plan& plan) {
  const int64_t steps = plan.resident.steps(), panel_bytes = steps * kPanelTiles * kTileBytes;
  const int64_t fitting = kResidentBytes / (panel_bytes + 1) * kPanelRows;
  const int64_t most = fitting < kLeastResidentRows ? kLeastResidentRows : smaller(fitting, kResidentRows);
  const int64_t rows = ceil_div(even_piece(plan.resident.rows, most), kPanelRows) * kPanelRows;
  const Scratch packed(rows / kPanelRows * panel_bytes / int64_t{sizeof(float)});
  for (int64_t row = 0; row < plan.resident.rows; row += rows) {
    const Stretch stretch = {
        row, smaller(rows, plan.resident.rows - row), {packed.bytes(), kPanelTiles, steps}};
    pack_resident(plan, row, stretch.rows, stretch.panels);
    product_stretch<Kernel, Out>(p, plan, stretch);
  }
}

}  // namespace
}  // namespace pyllm::linear
