// Activations are prepared once: as fixed-point numbers where codes are unsigned bytes (fixed_loops.h), as
// floats otherwise (activations.h). Then, in parallel, over floats:
//
//   up to kDirectRows rows: codes pass by once and go from the register to the multiply-add
//     for panel of 16 outputs (one row: kPanelsAtOnce panels side by side)
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
#include "ops/quantized_linear/codec_of.h"
#include "ops/quantized_linear/fixed_loops.h"
#include "ops/quantized_linear/grad_x.h"
#include "ops/quantized_linear/panels.h"
#include "ops/quantized_linear/sums.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kDirectRows = 2;
constexpr int kTileRows = (kVectorRegisters - 4) / (2 * kVecs);

// sums = panels [first, first + at_once) for p.rows <= kDirectRows rows. Where panels are missing at the end
// the last one is summed again.
void add_direct(const ForwardJob& job, int64_t first, int64_t at_once, float* sums) {
  const packed::Weight& weight = job.p.weight;
  ChunkScales scales[kPanelsAtOnce];
  const Scaling by = scaling_of(*weight.format, scales);
  const AddPacked add = job.p.rows == 1 ? job.codec.add_row : job.codec.add_two_rows;
  for (int64_t i = 0; i < job.p.rows * at_once * kOutputs; i += kLanes) store(sums + i, zero());
  for_each_chunk(weight, [&](int64_t chunk, int64_t unit, int64_t units) {
    const uint8_t* codes[kPanelsAtOnce];
    for (int64_t i = 0; i < at_once; ++i) {
      const int64_t panel = smaller(first + i, weight.layout.panels - 1);
      load_scales(weight, panel, chunk, units, scales[i]);
      codes[i] = weight.unit(panel, unit);
    }
    add(codes, job.table, units, by, job.x.floats->row(chunk, 0), sums);
  });
}

void forward_direct(const ForwardJob& job, int64_t first, int64_t end) {
  const int64_t at_once = panels_at_once(job.p);
  alignas(64) float sums[kDirectRows * kPanelsAtOnce * kOutputs];
  add_direct(job, first, at_once, sums);
  finish_panels(job.p, first, end, {0, job.p.rows}, sums);
}

// sums += one chunk, in tiles of Count rows, then the next smaller.
template <int SumQuads, int Count>
void add_tiles(const float* unpacked, int64_t units, const Scaling& by, const float* x, int64_t rows,
               float* sums) {
  const auto source_at = [&](int64_t unit)
                             PYLLM_INLINE { return Unpacked{unpacked + unit * kInputs * kOutputs}; };
  for (; rows >= Count; rows -= Count, x += Count * kChunkRow, sums += Count * kOutputs) {
    add_chunk<SumQuads, Count, kVecs>(source_at, units, by, x, sums, kOutputs);
  }
  if constexpr (Count > 1) {
    if (rows) add_tiles<SumQuads, Count / 2>(unpacked, units, by, x, rows, sums);
  }
}

// Panels [first, end) and a block of rows. sums: rows x 16 floats for each panel.
void add_unpacked(const ForwardJob& job, int64_t first, int64_t end, const Rows& rows, float* unpacked,
                  float* sums) {
  const packed::Weight& weight = job.p.weight;
  ChunkScales scales;
  const Scaling by = scaling_of(*weight.format, &scales);
  const auto add =
      job.codec.sum_inputs == kInputs ? add_tiles<kQuads, kTileRows> : add_tiles<kQuads / 2, kTileRows>;
  for (int64_t i = 0; i < (end - first) * rows.count() * kOutputs; i += kLanes) store(sums + i, zero());
  for_each_chunk(weight, [&](int64_t chunk, int64_t unit, int64_t units) {
    for (int64_t panel = first; panel < end; ++panel) {
      load_scales(weight, panel, chunk, units, scales);
      job.codec.unpack(weight.unit(panel, unit), job.table, units, unpacked);
      add(unpacked, units, by, job.x.floats->row(chunk, rows.begin), rows.count(),
          sums + (panel - first) * rows.count() * kOutputs);
    }
  });
}

void forward_unpacked(const ForwardJob& job, int64_t first, int64_t end) {
  for_each_block(job.p, [&](const Rows& rows) {
    const Scratch unpacked(kChunk * kOutputs), sums((end - first) * rows.count() * kOutputs);
    add_unpacked(job, first, end, rows, unpacked.get(), sums.get());
    finish_panels(job.p, first, end, rows, sums.get());
  });
}

void run_forward(const Product* products, int64_t count) {
  for_each_group(Jobs<Prepared>(products, count, cut_panels),
                 [](const ForwardJob& job, int64_t first, int64_t end) {
                   const auto forward = job.x.fixed                 ? forward_fixed
                                        : job.p.rows <= kDirectRows ? forward_direct
                                                                    : forward_unpacked;
                   forward(job, first, end);
                 });
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_grad_x};

}  // namespace pyllm::quantized_linear
