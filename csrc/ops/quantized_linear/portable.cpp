// Activations are copied once as floats (activations.h). Then, for panels of 16 outputs in parallel:
//
//   up to kDirectRows rows: codes pass by once and go from the register to the multiply-add
//     for chunk of 256 inputs: its scales; sums += codes * x             memory, or unpacking, sets the speed
//
//   more rows
//     for chunk of 256 inputs: its scales; codes to floats               16 KB, first-level cache
//       for tiles of rows: sums (rows x 16) += floats * x                multiply-adds set the speed
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
constexpr int64_t kForkCodes = 1 << 14;  // codes times rows that pay for a fork

template <class T>
void finish_panel(const Product& p, int64_t panel, const float* sums) {
  const int64_t outputs = p.weight.layout.outputs, first = panel * kOutputs;
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t lane = 0; lane < smaller(kOutputs, outputs - first); lane += kLanes) {
      const int64_t lanes = smaller(kLanes, outputs - first - lane);
      Vec sum = load(sums + row * kOutputs + lane);
      if (p.bias) sum = sum + load_lanes(static_cast<const T*>(p.bias) + first + lane, lanes);
      store_lanes(static_cast<T*>(p.out) + row * outputs + first + lane, sum, lanes);
    }
  }
}

// All rows, in tiles of Rows, then the next smaller.
template <class Policy, int Rows, class SourceAt>
void add_rows(const SourceAt& source_at, int64_t units, const Scaling& by, const Activations& x,
              int64_t chunk, int64_t row, int64_t end, float* sums) {
  for (; row + Rows <= end; row += Rows) {
    add_chunk<Policy, Rows>(source_at, units, by, x.row(chunk, row), sums + row * kOutputs, kOutputs);
  }
  if constexpr (Rows > 1) {
    if (row < end) add_rows<Policy, Rows / 2>(source_at, units, by, x, chunk, row, end, sums);
  }
}

template <class Policy>
void add_panel(const Product& p, const Table& table, const Activations& x, int64_t panel, float* unpacked,
               float* sums) {
  const packed::Format& format = *p.weight.format;
  const int64_t units = p.weight.layout.units;
  ChunkScales scales;
  const Scaling by = {scales, static_cast<float>(format.center), format.minimum != packed::Minimum::none};
  for (int64_t first = 0; first < units; first += kChunkUnits) {
    const int64_t chunk = first / kChunkUnits, count = smaller(kChunkUnits, units - first);
    load_scales(p.weight, panel, chunk, 4 * Policy::kSumQuads, count * kQuads / Policy::kSumQuads, scales);
    const uint8_t* codes = p.weight.unit(panel, first);
    if (p.rows <= kDirectRows) {
      const auto source_at = [&](int64_t unit) {
        return Packed<Policy>{codes + unit * Policy::kUnitBytes, table};
      };
      add_rows<Policy, kDirectRows>(source_at, count, by, x, chunk, 0, p.rows, sums);
    } else {
      unpack_units<Policy>(codes, table, count, unpacked);
      const auto source_at = [&](int64_t unit) { return Unpacked{unpacked + unit * kInputs * kOutputs}; };
      add_rows<Policy, kTileRows>(source_at, count, by, x, chunk, 0, p.rows, sums);
    }
  }
}

void run_forward(const Product& p) {
  if (p.rows == 0) return;
  with_policy(*p.weight.format, [&](auto policy, const Table& table) {
    using Policy = decltype(policy);
    const Activations x(p, order_of<Policy>());
    const int64_t panel_codes = p.weight.layout.units * kInputs * kOutputs;
    const int64_t grain = 1 + kForkCodes / (panel_codes * p.rows + 1);
    parallel_for(0, p.weight.layout.panels, grain, [&](int64_t begin, int64_t end) {
      const Scratch unpacked(kChunk * kOutputs), sums(p.rows * kOutputs);
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t i = 0; i < p.rows * kOutputs; i += kLanes) store(sums.get() + i, zero());
        add_panel<Policy>(p, table, x, panel, unpacked.get(), sums.get());
        visit_vector_dtype(p.dtype, [&](auto zero) { finish_panel<decltype(zero)>(p, panel, sums.get()); });
      }
    });
  });
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_grad_x};

}  // namespace pyllm::quantized_linear
