// Gradient of x: grad_y (rows x outputs) times the weight, which is unpacked a stretch at a time into panels
// of core/gemm.h.
//
//   for chunk of 256 inputs                         parallel
//     for stretch of 128 outputs
//       for panel of 16 outputs: scales; scale * (code - center) - minimum, transposed       128 KB
//       sums (rows x 256) += grad_y * stretch, one chain of 128 outputs
//     out = sums, rounded once
#pragma once

#include "core/gemm.h"
#include "core/transpose.h"
#include "ops/quantized_linear/activations.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kStretch = 128;  // outputs
static_assert(kStretch <= kDepth, "one chain of gemm()");

// A chunk's values of a panel of 16 outputs to rows [0, 16) of gemm() panels that are kStretch rows high.
[[maybe_unused]] void place_values(const float* unpacked, const Codec& codec, int64_t sum_inputs,
                                   int64_t units, const Scaling& by, float* to) {
  for (int64_t input = 0; input < units * kInputs; input += kLanes) {
    const int64_t sum = input / sum_inputs;
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const Vec scale = load(by.scales->scale[sum] + v * kLanes);
      const Vec minimum = by.minimums ? load(by.scales->minimum[sum] + v * kLanes) : zero();
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const int64_t at = (input + i) / 4 * 4 + packed::byte_of_input(i % 4);
        const Vec code =
            load(unpacked + at * kOutputs + v * kLanes) * set1(1.0f / codec.factors[at % kInputs]);
        block[i] = scale * (code - set1(by.center)) - minimum;
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        store(to + (input / kPanel * kStretch + v * kLanes + i) * kPanel + input % kPanel, block[i]);
      }
    }
  }
}

// Rows of grad_y as floats; zeros follow the last output up to whole stretches.
class Gradients {
 public:
  Gradients(const Product& p, const Codec&)
      : stride_(ceil_div(p.weight.layout.outputs, kStretch) * kStretch), floats_(p.rows * stride_) {
    visit_vector_dtype(p.dtype, [&](auto zero) {
      const int64_t outputs = p.weight.layout.outputs;
      for (int64_t row = 0; row < p.rows; ++row) {
        float* to = floats_.get() + row * stride_;
        to_float(static_cast<const decltype(zero)*>(p.left) + row * p.stride, to, outputs);
        for (int64_t i = outputs; i < stride_; ++i) to[i] = 0.0f;
      }
    });
  }

  static bool same(const Product&, const Product&) { return false; }

  const float* get() const { return floats_.get(); }
  int64_t stride() const { return stride_; }

 private:
  int64_t stride_;
  Scratch floats_;
};

[[maybe_unused]] void grad_x_chunk(const Job<Gradients>& job, int64_t chunk) {
  const Product& p = job.p;
  const packed::Layout& layout = p.weight.layout;
  const int64_t units = smaller(kChunkUnits, layout.units - chunk * kChunkUnits);
  const int64_t inputs = smaller(kChunk, layout.inputs - chunk * kChunk);
  const int64_t sum_inputs = sum_inputs_of(*p.weight.format);
  const Scratch unpacked(kChunk * kOutputs), stretch(kStretch * kChunk), sums(p.rows * kChunk);
  ChunkScales scales;
  const Scaling by = scaling_of(*p.weight.format, &scales);
  for (int64_t i = 0; i < p.rows * kChunk; i += kLanes) store(sums.get() + i, zero());
  constexpr int64_t kPanels = kStretch / kOutputs;
  for (int64_t first = 0; first < layout.panels; first += kPanels) {
    const int64_t panels = smaller(kPanels, layout.panels - first);
    for (int64_t i = 0; i < panels; ++i) {
      load_scales(p.weight, first + i, chunk, units, scales);
      job.codec.unpack(p.weight.unit(first + i, chunk * kChunkUnits), job.table, units, unpacked.get());
      place_values(unpacked.get(), job.codec, sum_inputs, units, by, stretch.get() + i * kOutputs * kPanel);
    }
    // gemm() wants panels as high as the depth: it takes the stretch as one of kStretch, whose missing
    // outputs have gradients of zero and values that are finite.
    for (int64_t i = panels; i < kPanels; ++i) {
      for (int64_t panel = 0; panel < kChunk / kPanel; ++panel) {
        float* rows = stretch.get() + (panel * kStretch + i * kOutputs) * kPanel;
        for (int64_t n = 0; n < kOutputs * kPanel; n += kLanes) store(rows + n, zero());
      }
    }
    gemm(job.x.get() + first * kOutputs, job.x.stride(), stretch.get(), sums.get(), kChunk, p.rows,
         ceil_div(inputs, kPanel) * kPanel, kStretch, true);
  }
  visit_vector_dtype(p.dtype, [&](auto zero) {
    auto* out = static_cast<decltype(zero)*>(p.out) + chunk * kChunk;
    for (int64_t row = 0; row < p.rows; ++row) {
      from_float(sums.get() + row * kChunk, out + row * layout.inputs, inputs);
    }
  });
}

[[maybe_unused]] void run_grad_x(const Product* products, int64_t count) {
  const auto cut_chunks = [](const Product& p) { return cut(p, ceil_div(p.weight.layout.inputs, kChunk)); };
  const Jobs<Gradients> jobs(products, count, cut_chunks);
  jobs.for_each_part([](const Job<Gradients>& job, int64_t chunk) { grad_x_chunk(job, chunk); });
}

}  // namespace
}  // namespace pyllm::quantized_linear
