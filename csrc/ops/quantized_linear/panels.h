// Blocks of a product: rows, panels of 16 outputs, chunks of 256 inputs, and the last step of all.
#pragma once

#include "ops/quantized_linear/activations.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kGroupPanels = 8, kBlockRows = 192, kNearRows = 16;
constexpr int64_t kTasks = 16;           // wanted of a weight with few panels
constexpr int64_t kForkCodes = 1 << 14;  // codes times rows that pay for a fork

struct Rows {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// f(chunk, its first unit, its units)
template <class F>
void for_each_chunk(const packed::Weight& weight, const F& f) {
  for (int64_t unit = 0; unit < weight.layout.units; unit += kChunkUnits) {
    f(unit / kChunkUnits, unit, smaller(kChunkUnits, weight.layout.units - unit));
  }
}

// f(first panel, end) for groups of `at_once` panels, in parallel.
template <class F>
void for_each_group(const Product& p, int64_t at_once, const F& f) {
  const int64_t panels = p.weight.layout.panels;
  const int64_t codes = p.weight.layout.units * kInputs * kOutputs * at_once;
  const int64_t grain = 1 + kForkCodes / (codes * p.rows + 1);
  parallel_for(0, ceil_div(panels, at_once), grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * at_once; first < smaller(panels, end * at_once); first += at_once) {
      f(first, smaller(panels, first + at_once));
    }
  });
}

// The same with blocks of rows: f(first panel, end, rows). Panels share a block of many rows; few stay near
// the core anyway, and codes are then read straight through.
template <class F>
void for_each_block(const Product& p, const F& f) {
  const int64_t at_once =
      p.rows <= kNearRows ? 1 : smaller(kGroupPanels, ceil_div(p.weight.layout.panels, kTasks));
  for_each_group(p, at_once, [&](int64_t first, int64_t end) {
    for (int64_t row = 0; row < p.rows; row += kBlockRows)
      f(first, end, Rows{row, smaller(p.rows, row + kBlockRows)});
  });
}

template <class T>
void finish_panel(const Product& p, int64_t panel, const Rows& rows, const float* sums) {
  const int64_t outputs = p.weight.layout.outputs, first = panel * kOutputs;
  for (int64_t row = rows.begin; row < rows.end; ++row, sums += kOutputs) {
    for (int64_t lane = 0; lane < smaller(kOutputs, outputs - first); lane += kLanes) {
      const int64_t lanes = smaller(kLanes, outputs - first - lane);
      Vec sum = load(sums + lane);
      if (p.bias) sum = sum + load_lanes(static_cast<const T*>(p.bias) + first + lane, lanes);
      store_lanes(static_cast<T*>(p.out) + row * outputs + first + lane, sum, lanes);
    }
  }
}

// out = sums + bias, rounded. sums: rows x 16 floats for each panel.
[[maybe_unused]] void finish_panels(const Product& p, int64_t first, int64_t end, const Rows& rows,
                                    const float* sums) {
  visit_vector_dtype(p.dtype, [&](auto zero) {
    for (int64_t panel = first; panel < end; ++panel, sums += rows.count() * kOutputs) {
      finish_panel<decltype(zero)>(p, panel, rows, sums);
    }
  });
}

}  // namespace
}  // namespace pyllm::quantized_linear
