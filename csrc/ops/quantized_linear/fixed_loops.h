// Forward over fixed-point activations (fixed_sums.h), panels [first, end):
//
//   for block of 192 rows
//     for chunk of 256 inputs                                     221 KB of x, second-level cache
//       for panel: its scales
//         one row: codes go from the register to the products     memory, or unpacking, sets the speed
//         more:    codes to bytes, 4 KB; tiles of 2 rows x 16 outputs x 3 digits
//   out = sums + bias, rounded once
#pragma once

#include <optional>

#include "ops/quantized_linear/fixed_activations.h"
#include "ops/quantized_linear/panels.h"

namespace pyllm::quantized_linear {
namespace {

// One product's activations as its kernels read them. A call may mix formats.
class Prepared {
 public:
  Prepared(const Product& p, const Codec& codec) {
    if (codec.add_fixed_row) {
      fixed.emplace(p);
    } else {
      floats.emplace(p, codec);
    }
  }

  static bool same(const Product& a, const Product& b) {
    const bool fixed_a = codec_of(*a.weight.format).add_fixed_row,
               fixed_b = codec_of(*b.weight.format).add_fixed_row;
    return fixed_a && fixed_b ? same_left(a, b) : Activations::same(a, b);
  }

  std::optional<FixedActivations> fixed;
  std::optional<Activations> floats;
};

using ForwardJob = Job<Prepared>;

// One row: a panel takes a microsecond or less, so nothing is looked up or cleared for it but its sums.
[[maybe_unused]] void forward_fixed_row(const ForwardJob& job, int64_t first, int64_t end) {
  const packed::Weight& weight = job.p.weight;
  ChunkScales scales;
  const Scaling by = scaling_of(*weight.format, &scales);
  for (int64_t panel = first; panel < end; ++panel) {
    alignas(64) float sums[kOutputs] = {};
    for_each_chunk(weight, [&](int64_t chunk, int64_t unit, int64_t units) {
      load_scales(weight, panel, chunk, units, scales);
      job.codec.add_fixed_row(weight.unit(panel, unit), job.table, units, by, job.x.fixed->at(chunk, 0),
                              sums);
    });
    finish_panels(job.p, panel, panel + 1, {0, 1}, sums);
  }
}

// sums (rows x 16 for each panel) += one block of rows.
[[maybe_unused]] void add_fixed_rows(const ForwardJob& job, int64_t first, int64_t end, const Rows& rows,
                                     uint8_t* bytes, float* sums) {
  const packed::Weight& weight = job.p.weight;
  ChunkScales scales;
  const Scaling by = scaling_of(*weight.format, &scales);
  for_each_chunk(weight, [&](int64_t chunk, int64_t unit, int64_t units) {
    for (int64_t panel = first; panel < end; ++panel) {
      load_scales(weight, panel, chunk, units, scales);
      job.codec.unpack_bytes(weight.unit(panel, unit), job.table, units, bytes);
      job.codec.add_fixed_rows(bytes, units, by, job.x.fixed->at(chunk, rows.begin), rows.count(),
                               sums + (panel - first) * rows.count() * kOutputs);
    }
  });
}

[[maybe_unused]] void forward_fixed(const ForwardJob& job, int64_t first, int64_t end) {
  if (job.p.rows == 1) return forward_fixed_row(job, first, end);
  for_each_block(job.p, [&](const Rows& rows) {
    const int64_t count = (end - first) * rows.count() * kOutputs;
    const Scratch bytes(kChunk * kOutputs / 4), sums(count);
    for (int64_t i = 0; i < count; i += kLanes) store(sums.get() + i, zero());
    add_fixed_rows(job, first, end, rows, reinterpret_cast<uint8_t*>(bytes.bytes()), sums.get());
    finish_panels(job.p, first, end, rows, sums.get());
  });
}

}  // namespace
}  // namespace pyllm::quantized_linear
