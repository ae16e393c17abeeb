// Activations are copied once as floats (activations.h). Then, in parallel:
//
//   up to kDirectRows rows: codes pass by once and go from the register to the multiply-add
//     for panel of 16 outputs
//       for chunk of 256 inputs: its scales; sums += codes * x           memory, or unpacking, sets the speed
//
//   more rows
//     for group of 8 panels, block of 192 rows
//       for chunk of 256 inputs                                          204 KB of x, second-level cache
//         for panel: its scales; codes to floats                         16 KB, first-level cache
//           for tiles of rows: sums (rows x 16) += floats * x            multiply-adds set the speed
//
//   out = sums + bias, rounded once
//
// A tile holds Rows x 16 outputs twice, even and odd inputs. On AVX2 that is 3 rows: 12 accumulators, and for
// 12 multiply-adds (6 cycles) 4 loads of codes and 6 broadcasts (5 cycles).
#include "core/levels.h"
#include "ops/quantized_linear/grad_x.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kDirectRows = 2;
constexpr int kTileRows = (kVectorRegisters - 4) / (2 * kVecs);
constexpr int64_t kGroupPanels = 8, kBlockRows = 192;
// Asked for: the hardware does too little for a stream that takes so long to unpack.
constexpr int64_t kUnitsAhead = 4;
constexpr int64_t kTasks = 16;           // wanted of a weight with few panels
constexpr int64_t kForkCodes = 1 << 14;  // codes times rows that pay for a fork

struct Rows {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

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

// sums += one chunk, in tiles of Count rows, then the next smaller.
template <class Policy, int Count, class SourceAt>
void add_rows(const SourceAt& source_at, int64_t units, const Scaling& by, const Activations& x,
              int64_t chunk, Rows rows, float* sums) {
  for (; rows.begin + Count <= rows.end; rows.begin += Count, sums += Count * kOutputs) {
    add_chunk<Policy, Count>(source_at, units, by, x.row(chunk, rows.begin), sums, kOutputs);
  }
  if constexpr (Count > 1) {
    if (rows.count()) add_rows<Policy, Count / 2>(source_at, units, by, x, chunk, rows, sums);
  }
}

template <class Policy>
void add_packed(const uint8_t* codes, const Table& table, int64_t units, const Scaling& by,
                const Activations& x, int64_t chunk, const Rows& rows, float* sums) {
  const auto source_at = [&](int64_t unit) {
    const uint8_t* at = codes + unit * Policy::kUnitBytes;
    for (int64_t byte = 0; byte < Policy::kUnitBytes; byte += kCacheLine) {
      __builtin_prefetch(at + kUnitsAhead * Policy::kUnitBytes + byte);
    }
    return Packed<Policy>{at, table};
  };
  add_rows<Policy, kDirectRows>(source_at, units, by, x, chunk, rows, sums);
}

template <class Policy>
void add_unpacked(const uint8_t* codes, const Table& table, int64_t units, const Scaling& by,
                  const Activations& x, int64_t chunk, const Rows& rows, float* unpacked, float* sums) {
  unpack_units<Policy>(codes, table, units, unpacked);
  const auto source_at = [&](int64_t unit) { return Unpacked{unpacked + unit * kInputs * kOutputs}; };
  add_rows<Policy, kTileRows>(source_at, units, by, x, chunk, rows, sums);
}

// Panels [first, end) and a block of rows. sums: rows x 16 floats for each panel.
template <class Policy>
void add_panels(const Product& p, const Table& table, const Activations& x, int64_t first, int64_t end,
                const Rows& rows, float* unpacked, float* sums) {
  const packed::Format& format = *p.weight.format;
  const int64_t all_units = p.weight.layout.units, panel_sums = rows.count() * kOutputs;
  ChunkScales scales;
  const Scaling by = {scales, static_cast<float>(format.center), format.minimum != packed::Minimum::none};
  for (int64_t i = 0; i < (end - first) * panel_sums; i += kLanes) store(sums + i, zero());
  for (int64_t unit = 0; unit < all_units; unit += kChunkUnits) {
    const int64_t chunk = unit / kChunkUnits, units = smaller(kChunkUnits, all_units - unit);
    for (int64_t panel = first; panel < end; ++panel) {
      load_scales(p.weight, panel, chunk, 4 * Policy::kSumQuads, units * kQuads / Policy::kSumQuads, scales);
      const uint8_t* codes = p.weight.unit(panel, unit);
      float* to = sums + (panel - first) * panel_sums;
      if (p.rows <= kDirectRows) {
        add_packed<Policy>(codes, table, units, by, x, chunk, rows, to);
      } else {
        add_unpacked<Policy>(codes, table, units, by, x, chunk, rows, unpacked, to);
      }
    }
  }
}

void run_forward(const Product& p) {
  if (p.rows == 0) return;
  with_policy(*p.weight.format, [&](auto policy, const Table& table) {
    using Policy = decltype(policy);
    const Activations x(p, order_of<Policy>());
    const int64_t panels = p.weight.layout.panels;
    const int64_t at_once = p.rows <= kDirectRows ? 1 : smaller(kGroupPanels, ceil_div(panels, kTasks));
    const int64_t block = smaller(p.rows, kBlockRows);
    const int64_t codes = p.weight.layout.units * kInputs * kOutputs * at_once;
    const int64_t grain = 1 + kForkCodes / (codes * p.rows + 1);
    parallel_for(0, ceil_div(panels, at_once), grain, [&](int64_t begin, int64_t end) {
      const Scratch unpacked(kChunk * kOutputs), sums(at_once * block * kOutputs);
      for (int64_t first = begin * at_once; first < smaller(panels, end * at_once); first += at_once) {
        const int64_t last = smaller(panels, first + at_once);
        for (int64_t row = 0; row < p.rows; row += block) {
          const Rows rows = {row, smaller(p.rows, row + block)};
          add_panels<Policy>(p, table, x, first, last, rows, unpacked.get(), sums.get());
          for (int64_t panel = first; panel < last; ++panel) {
            const float* from = sums.get() + (panel - first) * rows.count() * kOutputs;
            visit_vector_dtype(p.dtype,
                               [&](auto zero) { finish_panel<decltype(zero)>(p, panel, rows, from); });
          }
        }
      }
    });
  });
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_grad_x};

}  // namespace pyllm::quantized_linear
