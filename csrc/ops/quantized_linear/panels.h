// Blocks of a product: rows, panels of 16 outputs, chunks of 256 inputs, and the last step of all.
#pragma once

#include "ops/quantized_linear/activations.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kGroupPanels = 8, kBlockRows = 192, kNearRows = 16;
constexpr int64_t kTasks = 16;  // wanted of a weight with few panels

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

// Panels of one part. Many rows: panels share a block of them; few stay near the core anyway, and codes are
// then read straight through.
[[maybe_unused]] int64_t panels_at_once(const Product& p) {
  if (p.rows == 1) return kPanelsAtOnce;
  return p.rows <= kNearRows ? 1 : smaller(kGroupPanels, ceil_div(p.weight.layout.panels, kTasks));
}

[[maybe_unused]] Cut cut_panels(const Product& p) {
  return cut(p, ceil_div(p.weight.layout.panels, panels_at_once(p)));
}

// f(job, first panel, end) for all jobs, in parallel.
template <class X, class F>
void for_each_group(const Jobs<X>& jobs, const F& f) {
  jobs.for_each_part([&](const Job<X>& job, int64_t part) {
    const int64_t at_once = panels_at_once(job.p);
    f(job, part * at_once, smaller(job.p.weight.layout.panels, (part + 1) * at_once));
  });
}

// f(rows) for blocks of rows.
template <class F>
void for_each_block(const Product& p, const F& f) {
  for (int64_t row = 0; row < p.rows; row += kBlockRows) f(Rows{row, smaller(p.rows, row + kBlockRows)});
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
