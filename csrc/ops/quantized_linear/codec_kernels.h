// The kernels of one kind of code, for portable_<kind>.cpp.
#pragma once

#include "core/aligned.h"
#include "core/levels.h"
#include "ops/quantized_linear/byte_sums.h"
#include "ops/quantized_linear/fixed_sums.h"
#include "ops/quantized_linear/sums.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kBytesAhead = 2048;  // of codes

constexpr int kFixedRows = 2;  // of a tile: 12 sums in registers

template <class Policy, int Rows, int Panels>
void add_packed(const uint8_t* const* codes, const Table& table, int64_t units, const Scaling& by,
                const float* x, float* out) {
  const uint8_t* panels[Panels];  // in registers
  for (int i = 0; i < Panels; ++i) panels[i] = codes[i];
  const auto source_at = [&](int64_t unit) PYLLM_INLINE {
    const int64_t offset = unit * Policy::kUnitBytes;
#pragma GCC unroll 4
    for (int i = 0; i < Panels; ++i) {
#pragma GCC unroll 8
      for (int64_t byte = 0; byte < Policy::kUnitBytes; byte += kCacheLine) {
        __builtin_prefetch(panels[i] + offset + kUnitsAhead * Policy::kUnitBytes + byte);
      }
    }
    return Packed<Policy>{panels, offset, table};
  };
  add_chunk<Policy::kSumQuads, Rows, Panels * kVecs>(source_at, units, by, x, out, Panels * kOutputs);
}

template <class Policy>
void unpack(const uint8_t* codes, const Table& table, int64_t units, float* to) {
  for (int64_t unit = 0; unit < units; ++unit, codes += Policy::kUnitBytes, to += kInputs * kOutputs) {
    unrolled<kQuads>([&]<int Q>() PYLLM_INLINE {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const Words word = Policy::template quad<Q>(codes, table, v);
        unrolled<4>([&]<int Byte>() PYLLM_INLINE {
          store(to + (4 * Q + Byte) * kOutputs + v * kLanes, Policy::template value<Q, Byte>(word, table));
        });
      }
    });
  }
}

template <class Policy>
void unpack_bytes(const uint8_t* codes, const Table& table, int64_t units, uint8_t* to) {
  constexpr int64_t kVecBytes = sizeof(Words), kQuadBytes = 4 * kOutputs;
  for (int64_t unit = 0; unit < units; ++unit, codes += Policy::kUnitBytes, to += kQuads * kQuadBytes) {
#pragma GCC unroll 8
    for (int64_t byte = 0; byte < Policy::kUnitBytes; byte += kCacheLine) {
      __builtin_prefetch(codes + kBytesAhead + byte);
    }
    unrolled<kQuads>([&]<int Q>() PYLLM_INLINE {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const Words bytes = Policy::template bytes<Q>(codes, table, v);
        __builtin_memcpy(to + Q * kQuadBytes + v * kVecBytes, &bytes, kVecBytes);
      }
    });
  }
}

template <class Policy>
constexpr int most_of() {
  return Policy::kBytes.is_signed ? 0 : Policy::kBytes.most;
}

// A unit's codes, those of a later one asked for.
template <class Policy>
inline PYLLM_INLINE auto bytes_at(const uint8_t* codes, const Table& table) {
  return [codes, &table](int64_t unit) PYLLM_INLINE {
    const uint8_t* at = codes + unit * Policy::kUnitBytes;
#pragma GCC unroll 8
    for (int64_t byte = 0; byte < Policy::kUnitBytes; byte += kCacheLine) {
      __builtin_prefetch(at + kBytesAhead + byte);
    }
    return PackedBytes<Policy>{at, table};
  };
}

template <class Policy>
void add_scaled_row(const uint8_t* codes, const Table& table, int64_t units, const Scaling& by,
                    const ByteChunk& x, float* out) {
  add_scaled_tile<PairDots, most_of<Policy>(), Policy::kSumQuads, 1>(bytes_at<Policy>(codes, table), units,
                                                                     by, &x, out);
}

template <class Policy>
void add_fixed_row(const uint8_t* codes, const Table& table, int64_t units, const Scaling& by,
                   const FixedChunk* x, float* out) {
  add_fixed_tile<most_of<Policy>(), Policy::kSumQuads, 1>(bytes_at<Policy>(codes, table), units, by, x, out);
}

template <class Policy, int Rows = kFixedRows>
void add_fixed_rows(const uint8_t* bytes, int64_t units, const Scaling& by, const FixedChunk* x, int64_t rows,
                    float* out) {
  const auto source_at = [&](int64_t unit)
                             PYLLM_INLINE { return StoredBytes{bytes + unit * kQuads * kQuadBytes}; };
  for (; rows >= Rows; rows -= Rows, x += Rows, out += Rows * kOutputs) {
    add_fixed_tile<most_of<Policy>(), Policy::kSumQuads, Rows>(source_at, units, by, x, out);
  }
  if constexpr (Rows > 1) {
    if (rows) add_fixed_rows<Policy, Rows / 2>(bytes, units, by, x, rows, out);
  }
}

template <class Policy>
void add_integers_row(const uint8_t* codes, const Table& table, int64_t units, const ByteChunk& x,
                      int32_t* out) {
  add_integer_tile<PairDots, most_of<Policy>(), 1>(bytes_at<Policy>(codes, table), units, &x, out);
}

template <class Policy>
constexpr Codec codec() {
  Codec of = {.unit_bytes = Policy::kUnitBytes,
              .sum_inputs = 4 * Policy::kSumQuads,
              .factors = {},
              .add_fixed_row = nullptr,
              .add_fixed_rows = nullptr,
              .add_row = nullptr,
              .add_two_rows = nullptr,
              .unpack = unpack<Policy>,
              .unpack_bytes = nullptr,
              .bytes = {},
              .add_scaled_row = nullptr,
              .add_integers_row = nullptr};
  if constexpr (has_fixed<Policy>()) {
    of.add_fixed_row = add_fixed_row<Policy>;
    of.add_fixed_rows = add_fixed_rows<Policy>;
  } else {
    of.add_row = add_packed<Policy, 1, kPanelsAtOnce>;
    of.add_two_rows = add_packed<Policy, 2, 1>;
  }
  if constexpr (requires { Policy::kBytes; }) {
    of.unpack_bytes = unpack_bytes<Policy>;
    of.bytes = Policy::kBytes;
    of.add_scaled_row = add_scaled_row<Policy>;
    of.add_integers_row = add_integers_row<Policy>;
  }
  for (int i = 0; i < kInputs; ++i) of.factors[i] = Policy::factor(i / 4, i % 4);
  return of;
}

}  // namespace
}  // namespace pyllm::quantized_linear

// Exports one kind under its level's name.
#define PYLLM_CODEC(name, Policy)             \
  extern const Codec PYLLM_LEVEL_TABLE(name); \
  const Codec PYLLM_LEVEL_TABLE(name) = codec<Policy>()
