// One kind of code as the loops over panels, rows and threads see it. Kernels of codes are compiled in
// portable_<kind>.cpp, once for each kind; everything else once for all of them.
#pragma once

#include "formats/packed_weight.h"

namespace pyllm::quantized_linear {

using packed::kInputs;
using packed::kOutputs;
using packed::kQuads;

constexpr int64_t kChunkUnits = 8;
constexpr int64_t kChunk = kChunkUnits * kInputs;  // inputs
constexpr int64_t kChunkSums = 2 * kChunkUnits;    // at most: a sum has 16 inputs or more

static_assert(kChunk == packed::kOuterGroup);

// Floats of one row of a chunk of activations: inputs, then minus the sums (activations.h).
constexpr int64_t kChunkRow = kChunk + kChunkSums;

// What codes are looked up in: 16 floats, and the same as bytes where they are integers.
struct Table {
  const float* floats;
  int8_t bytes[packed::kMostCodes];
};

// Of a panel's 16 outputs and a chunk's sums.
struct ChunkScales {
  alignas(64) float scale[kChunkSums][kOutputs];
  alignas(64) float minimum[kChunkSums][kOutputs];
};

// What a chunk's sums are added with.
struct Scaling {
  const ChunkScales* scales;  // of each panel
  float center;
  bool minimums;
  int64_t sum_units;  // units that share a scale, where a sum is not half a unit
};

// out += one chunk: rows kChunkRow floats apart in x, panels side by side in out. codes: of each panel.
using AddPacked = void (*)(const uint8_t* const* codes, const Table&, int64_t units, const Scaling&,
                           const float* x, float* out);

// Codes as bytes: signed, or unsigned and at most so large.
struct ByteCodes {
  bool is_signed;
  int most;
};

// One row of a chunk of activations as signed bytes (byte_activations.h).
struct alignas(64) ByteChunk {
  int8_t bytes[kChunk];
  float scales[kChunkUnits];      // of each unit
  int32_t sums[2 * kChunkUnits];  // of each half of a unit
  int32_t total;
};

// One row of a chunk of activations as fixed-point numbers (fixed_activations.h).
struct alignas(64) FixedChunk {
  int8_t digits[4 * kChunk];
  float scales[kChunkUnits];       // of each unit
  float minus_totals[kChunkSums];  // of each sum
};

struct Codec {
  int64_t unit_bytes;
  int64_t sum_inputs;      // 16 where scales may belong to 16 inputs, otherwise 32
  float factors[kInputs];  // a code's float is its value times so much, in the order of a unit's words
  // From fixed-point activations, null where kernels take floats. One panel: a row and the codes as they lie,
  // or rows and bytes of unpack_bytes; 16 sums a row.
  void (*add_fixed_row)(const uint8_t* codes, const Table&, int64_t units, const Scaling&, const FixedChunk*,
                        float* out);
  void (*add_fixed_rows)(const uint8_t* bytes, int64_t units, const Scaling&, const FixedChunk*, int64_t rows,
                         float* out);
  // From floats, null where kernels take fixed-point activations.
  AddPacked add_row;       // kPanelsAtOnce panels, one row
  AddPacked add_two_rows;  // one panel
  void (*unpack)(const uint8_t* codes, const Table&, int64_t units, float* to);  // 16 for each input
  // For codes that are integers: bytes, four neighbours of each output side by side, quad after quad.
  void (*unpack_bytes)(const uint8_t* codes, const Table&, int64_t units, uint8_t* to);
  ByteCodes bytes;
  // One panel and one row of bytes: 16 sums, scaled, or integers.
  void (*add_scaled_row)(const uint8_t* codes, const Table&, int64_t units, const Scaling&, const ByteChunk&,
                         float* out);
  void (*add_integers_row)(const uint8_t* codes, const Table&, int64_t units, const ByteChunk&, int32_t* out);
};

using CodecOf = const Codec& (*)(const packed::Format&);

}  // namespace pyllm::quantized_linear
