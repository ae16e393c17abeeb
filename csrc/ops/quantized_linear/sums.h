// The one order in which a quantized product adds, whatever the number of rows:
//
//   for sum of 32 inputs (16 where scales belong to 16)
//     even, odd chains of fused multiply-adds from zero: code * x over the even and the odd inputs, ascending
//     t   = (even + odd) - center * (sum of x)
//     out = out + scale * t, fused
//     out = out - minimum * (sum of x), fused, where the format has minimums
//
// so AMX's order for bf16 tiles, without its bits. Rows x 16 outputs are summed at a time, their codes either
// unpacked in registers (Packed: few rows, the codes pass by once) or from floats in the first-level cache
// (Unpacked: many rows).
#pragma once

#include <utility>

#include "core/chains.h"
#include "ops/quantized_linear/activations.h"

namespace pyllm::quantized_linear {
namespace {

// f.template operator()<0>() ... <Count - 1>()
template <int Count, class F>
inline PYLLM_INLINE void unrolled(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      PYLLM_INLINE { (f.template operator()<I>(), ...); }(std::make_integer_sequence<int, Count>{});
}

// Codes of one unit.
template <class Policy>
struct Packed {
  const uint8_t* unit;
  const Table& table;

  template <int Q>
  PYLLM_INLINE Words quad(int vec) const {
    return Policy::template quad<Q>(unit, table, vec);
  }
  template <int Q, int Byte>
  PYLLM_INLINE Vec value(Words word, int) const {
    return Policy::template value<Q, Byte>(word, table);
  }
};

// The same as floats, 16 for each input in the order of Activations.
struct Unpacked {
  const float* unit;

  template <int Q>
  PYLLM_INLINE int quad(int) const {
    return 0;
  }
  template <int Q, int Byte>
  PYLLM_INLINE Vec value(int, int vec) const {
    return load(unit + (4 * Q + Byte) * kOutputs + vec * kLanes);
  }
};

template <int Rows>
struct Chained {
  Vec even[Rows][kVecs], odd[Rows][kVecs];
};

// Chains over quads [First, First + Count). x: the first row's inputs of this unit; rows are kChunkRow apart.
template <int First, int Count, int Rows, class Source>
inline PYLLM_INLINE void add_quads(const Source& source, const float* x, Chained<Rows>& sums) {
  unrolled<Count>([&]<int I>() PYLLM_INLINE {
    constexpr int Q = First + I;
    decltype(source.template quad<Q>(0)) words[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) words[v] = source.template quad<Q>(v);
    unrolled<4>([&]<int Byte>() PYLLM_INLINE {
      Vec values[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) values[v] = source.template value<Q, Byte>(words[v], v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec factor = set1(x[r * kChunkRow + 4 * Q + Byte]);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          accumulate(Byte < 2 ? sums.even[r][v] : sums.odd[r][v], factor, values[v]);
        }
      }
    });
  });
}

// What a chunk's sums are added with.
struct Scaling {
  const ChunkScales& scales;
  float center;
  bool minimums;
};

// out (Rows x 16, `stride` floats from row to row) += the sum number `sum` of a chunk.
template <int Rows>
inline PYLLM_INLINE void finish_sum(const Chained<Rows>& sums, const Scaling& by, int64_t sum, const float* x,
                                    float* out, int64_t stride) {
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const Vec scale = load(by.scales.scale[sum] + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float minus_total = x[r * kChunkRow + kChunk + sum];
      const Vec t = fma(set1(by.center), set1(minus_total), sums.even[r][v] + sums.odd[r][v]);
      float* to = out + r * stride + v * kLanes;
      Vec total = fma(scale, t, load(to));
      if (by.minimums) total = fma(load(by.scales.minimum[sum] + v * kLanes), set1(minus_total), total);
      store(to, total);
    }
  }
}

// out += one chunk of `units` units. source_at(unit): its codes.
template <class Policy, int Rows, class SourceAt>
void add_chunk(const SourceAt& source_at, int64_t units, const Scaling& by, const float* x, float* out,
               int64_t stride) {
  constexpr int kSums = kQuads / Policy::kSumQuads;
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto source = source_at(unit);
    unrolled<kSums>([&]<int Part>() PYLLM_INLINE {
      Chained<Rows> sums = {};
      add_quads<Part * Policy::kSumQuads, Policy::kSumQuads>(source, x + unit * kInputs, sums);
      finish_sum<Rows>(sums, by, unit * kSums + Part, x, out, stride);
    });
  }
}

// `units` units as floats: 16 for each input.
template <class Policy>
void unpack_units(const uint8_t* codes, const Table& table, int64_t units, float* to) {
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

}  // namespace
}  // namespace pyllm::quantized_linear
