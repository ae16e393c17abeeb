// int8.h on vectors, for any kind of byte product (byte_dots.h). Rows become bytes once; then, in parallel:
//
//   for group of 8 panels, block of 192 rows                      up to 16 rows: panel by panel
//     for chunk of 256 inputs                                     74 KB of x, second-level cache
//       for panel: its scales; codes to bytes                     4 KB, first-level cache
//         for tiles of 4 rows                                     one row: from the register to the multiply
//           scales of groups: for sum of 32 inputs (16): sums (rows x 16) += scale * (scale of x * sum)
//           scales of outputs: integers (rows x 16) += sum over the chunk; scales after the last chunk
//   out = sums + bias, rounded once
#pragma once

#include <cstring>

#include "ops/quantized_linear/byte_activations.h"
#include "ops/quantized_linear/byte_sums.h"
#include "ops/quantized_linear/codec_of.h"
#include "ops/quantized_linear/int8.h"
#include "ops/quantized_linear/panels.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kByteRows = 4;
constexpr int64_t kChunkBytes = kChunk * kOutputs;  // of codes

using ByteJob = Job<ByteActivations>;

// out (rows x 16) += one chunk.
template <class Dots, int Most, int SumQuads, int Rows = kByteRows>
void add_scaled(const uint8_t* codes, int64_t units, const Scaling& by, const ByteChunk* x, int64_t rows,
                float* out) {
  const auto source_at = [&](int64_t unit)
                             PYLLM_INLINE { return StoredBytes{codes + unit * kQuads * kQuadBytes}; };
  for (; rows >= Rows; rows -= Rows, x += Rows, out += Rows * kOutputs) {
    add_scaled_tile<Dots, Most, SumQuads, Rows>(source_at, units, by, x, out);
  }
  if constexpr (Rows > 1) {
    if (rows) add_scaled<Dots, Most, SumQuads, Rows / 2>(codes, units, by, x, rows, out);
  }
}

// integers (rows x 16) += one chunk.
template <class Dots, int Most, int Rows = kByteRows>
void add_integers(const uint8_t* codes, int64_t units, const ByteChunk* x, int64_t rows, int32_t* integers) {
  const auto source_at = [&](int64_t unit)
                             PYLLM_INLINE { return StoredBytes{codes + unit * kQuads * kQuadBytes}; };
  for (; rows >= Rows; rows -= Rows, x += Rows, integers += Rows * kOutputs) {
    add_integer_tile<Dots, Most, Rows>(source_at, units, x, integers);
  }
  if constexpr (Rows > 1) {
    if (rows) add_integers<Dots, Most, Rows / 2>(codes, units, x, rows, integers);
  }
}

// Kernels for one kind of codes.
struct ByteKernels {
  void (*add_scaled)(const uint8_t* codes, int64_t units, const Scaling&, const ByteChunk*, int64_t rows,
                     float* out);
  void (*add_integers)(const uint8_t* codes, int64_t units, const ByteChunk*, int64_t rows, int32_t*);
  int32_t offset;  // of the integers
};

template <class Dots>
ByteKernels byte_kernels(const Codec& codec) {
  if (codec.bytes.is_signed) return {add_scaled<Dots, 0, kQuads>, add_integers<Dots, 0>, Dots::kOffset};
  if (codec.bytes.most == 15) return {add_scaled<Dots, 15, kQuads>, add_integers<Dots, 15>, 0};
  // No format of these has a scale per output.
  if (codec.bytes.most == 31) return {add_scaled<Dots, 31, kQuads>, nullptr, 0};
  if (codec.bytes.most == 63) return {add_scaled<Dots, 63, kQuads / 2>, nullptr, 0};
  return {add_scaled<Dots, 7, kQuads / 2>, nullptr, 0};
}

// sums += panels [first, end) and a block of rows; sums: rows x 16 floats for each panel.
[[maybe_unused]] void sum_scaled(const ByteJob& job, const ByteKernels& kernels, int64_t first, int64_t end,
                                 const Rows& rows, uint8_t* bytes, float* sums) {
  ChunkScales scales;
  const Scaling by = scaling_of(*job.p.weight.format, &scales);
  for_each_chunk(job.p.weight, [&](int64_t chunk, int64_t unit, int64_t units) {
    const ByteChunk* x = job.x.at(chunk, rows.begin);
    for (int64_t panel = first; panel < end; ++panel) {
      const uint8_t* codes = job.p.weight.unit(panel, unit);
      float* to = sums + (panel - first) * rows.count() * kOutputs;
      load_scales(job.p.weight, panel, chunk, units, scales);
      if (job.p.rows == 1) {
        job.codec.add_scaled_row(codes, job.table, units, by, *x, to);
      } else {
        job.codec.unpack_bytes(codes, job.table, units, bytes);
        kernels.add_scaled(bytes, units, by, x, rows.count(), to);
      }
    }
  });
}

// out (rows x 16) += a span's integers, which become zero.
[[maybe_unused]] void finish_span(const SumScales& by, const ByteActivations& x, const Rows& rows,
                                  int64_t first_chunk, int64_t end_chunk, int32_t* integers, float* out) {
  for (int64_t row = rows.begin; row < rows.end; ++row, integers += kOutputs, out += kOutputs) {
    SignedWords sums[kVecs];
    __builtin_memcpy(sums, integers, sizeof sums);
    std::memset(integers, 0, sizeof sums);
    add_sum(by, sums, x.total(row, first_chunk, end_chunk), x.at(first_chunk, row)->scales[0], out);
  }
}

// The same where outputs have one scale each. integers: as sums, zeros before and after.
[[maybe_unused]] void sum_whole(const ByteJob& job, const ByteKernels& kernels, int64_t first, int64_t end,
                                const Rows& rows, uint8_t* bytes, int32_t* integers, float* sums) {
  constexpr int64_t kSpanChunks = kSpan / kChunk;
  const int64_t panel_sums = rows.count() * kOutputs, chunks = ceil_div(job.p.weight.layout.inputs, kChunk);
  ChunkScales scales;
  const Scaling by = scaling_of(*job.p.weight.format, &scales);
  for_each_chunk(job.p.weight, [&](int64_t chunk, int64_t unit, int64_t units) {
    const ByteChunk* x = job.x.at(chunk, rows.begin);
    for (int64_t panel = first; panel < end; ++panel) {
      const uint8_t* codes = job.p.weight.unit(panel, unit);
      int32_t* to = integers + (panel - first) * panel_sums;
      if (job.p.rows == 1) {
        job.codec.add_integers_row(codes, job.table, units, *x, to);
      } else {
        job.codec.unpack_bytes(codes, job.table, units, bytes);
        kernels.add_integers(bytes, units, x, rows.count(), to);
      }
    }
    if ((chunk + 1) % kSpanChunks != 0 && chunk + 1 < chunks) return;
    for (int64_t panel = first; panel < end; ++panel) {
      load_scales(job.p.weight, panel, 0, 1, scales);
      const int64_t at = (panel - first) * panel_sums;
      finish_span(scales_of(by, 0, kernels.offset), job.x, rows, chunk / kSpanChunks * kSpanChunks, chunk + 1,
                  integers + at, sums + at);
    }
  });
}

template <class Dots>
void sum_panels(const ByteJob& job, int64_t first, int64_t end, const Rows& rows) {
  const ByteKernels kernels = byte_kernels<Dots>(job.codec);
  const bool whole = job.p.weight.format->group == 0;
  const int64_t count = (end - first) * rows.count() * kOutputs;
  const Scratch bytes(kChunkBytes / 4), integers(whole ? count : 0), sums(count);
  std::memset(sums.bytes(), 0, static_cast<size_t>(count) * sizeof(float));
  auto* codes = reinterpret_cast<uint8_t*>(bytes.bytes());
  if (whole) {
    std::memset(integers.bytes(), 0, static_cast<size_t>(count) * sizeof(int32_t));
    sum_whole(job, kernels, first, end, rows, codes, reinterpret_cast<int32_t*>(integers.bytes()),
              sums.get());
  } else {
    sum_scaled(job, kernels, first, end, rows, codes, sums.get());
  }
  finish_panels(job.p, first, end, rows, sums.get());
}

template <class Dots>
void run_int8(const Product* products, int64_t count) {
  for_each_group(Jobs<ByteActivations>(products, count, cut_panels),
                 [](const ByteJob& job, int64_t first, int64_t end) {
                   for_each_block(job.p, [&](const Rows& rows) { sum_panels<Dots>(job, first, end, rows); });
                 });
}

}  // namespace
}  // namespace pyllm::quantized_linear
