// The one order in which a product of codes and floats adds, whatever the number of rows:
//
//   for sum of the inputs that share a scale, at most 256
//     for unit of 32 inputs (16 where scales belong to 16)
//       even, odd chains of fused multiply-adds from zero: code * x over the even and the odd inputs,
//       ascending t = t + (even + odd)
//     t   = t - center * (sum of x)
//     out = out + scale * t, fused
//     out = out - minimum * (sum of x), fused, where the format has minimums
//
// which is what tiles of AMX do with bf16. Rows x outputs are summed at a time, their codes either unpacked
// in registers (Packed: few rows, the codes pass by once) or from floats in the first-level cache (Unpacked:
// many rows).
#pragma once

#include "core/chains.h"
#include "ops/quantized_linear/scales.h"
#include "ops/quantized_linear/unpack.h"

namespace pyllm::quantized_linear {
namespace {

// Asked for: the hardware does too little for a stream that takes so long to unpack.
constexpr int64_t kUnitsAhead = 4;

// Codes of one unit of some panels, which begins at `offset` of each one's.
template <class Policy>
struct Packed {
  const uint8_t* const* codes;
  int64_t offset;
  const Table& table;

  template <int Q>
  PYLLM_INLINE Words quad(int vec) const {
    return Policy::template quad<Q>(codes[vec / kVecs] + offset, table, vec % kVecs);
  }
  template <int Q, int Byte>
  PYLLM_INLINE Vec value(Words word, int) const {
    return Policy::template value<Q, Byte>(word, table);
  }
};

// The same of one panel as floats, 16 for each input in the order of Activations.
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

template <int Rows, int Vecs>
struct Chained {
  Vec even[Rows][Vecs], odd[Rows][Vecs];
};

// Chains over quads [First, First + Count). x: the first row's inputs of this unit; rows are kChunkRow apart.
template <int First, int Count, int Rows, int Vecs, class Source>
inline PYLLM_INLINE void add_quads(const Source& source, const float* x, Chained<Rows, Vecs>& sums) {
  unrolled<Count>([&]<int I>() PYLLM_INLINE {
    constexpr int Q = First + I;
    decltype(source.template quad<Q>(0)) words[Vecs];
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) words[v] = source.template quad<Q>(v);
    unrolled<4>([&]<int Byte>() PYLLM_INLINE {
      Vec values[Vecs];
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) values[v] = source.template value<Q, Byte>(words[v], v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec factor = set1(x[r * kChunkRow + 4 * Q + Byte]);
#pragma GCC unroll 4
        for (int v = 0; v < Vecs; ++v) {
          accumulate(Byte < 2 ? sums.even[r][v] : sums.odd[r][v], factor, values[v]);
        }
      }
    });
  });
}

// t += quads [First, First + Count) of one unit.
template <int First, int Count, int Rows, int Vecs, class Source>
inline PYLLM_INLINE void add_unit(const Source& source, const float* x, Vec (&t)[Rows][Vecs]) {
  Chained<Rows, Vecs> sums = {};
  add_quads<First, Count>(source, x, sums);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) t[r][v] = t[r][v] + (sums.even[r][v] + sums.odd[r][v]);
  }
}

// out (rows `stride` floats apart) += the sum number `sum` of a chunk. minus_totals: of the first row's
// inputs in each sum, rows `totals_stride` floats apart.
template <int Rows, int Vecs>
inline PYLLM_INLINE void finish_sum(const Vec (&t)[Rows][Vecs], const Scaling& by, int64_t sum,
                                    const float* minus_totals, int64_t totals_stride, float* out,
                                    int64_t stride) {
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) {
    const ChunkScales& scales = by.scales[v / kVecs];
    const int lane = v % kVecs * kLanes;
    const Vec scale = load(scales.scale[sum] + lane);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float minus_total = minus_totals[r * totals_stride + sum];
      float* to = out + r * stride + v * kLanes;
      Vec total = fma(scale, fma(set1(by.center), set1(minus_total), t[r][v]), load(to));
      if (by.minimums) total = fma(load(scales.minimum[sum] + lane), set1(minus_total), total);
      store(to, total);
    }
  }
}

// out += one chunk of `units` units, in sums of SumQuads quads or of by.sum_units units. source_at(unit): its
// codes.
template <int SumQuads, int Rows, int Vecs, class SourceAt>
inline PYLLM_INLINE void add_chunk(const SourceAt& source_at, int64_t units, const Scaling& by,
                                   const float* x, float* out, int64_t stride) {
  if constexpr (SumQuads == kQuads) {
    for (int64_t unit = 0, sum = 0; unit < units; ++sum) {
      const int64_t next = unit + by.sum_units, end = next < units ? next : units;
      Vec t[Rows][Vecs] = {};
      for (; unit < end; ++unit) add_unit<0, kQuads>(source_at(unit), x + unit * kInputs, t);
      finish_sum<Rows, Vecs>(t, by, sum, x + kChunk, kChunkRow, out, stride);
    }
  } else {
    for (int64_t unit = 0; unit < units; ++unit) {
      const auto source = source_at(unit);
      unrolled<kQuads / SumQuads>([&]<int Part>() PYLLM_INLINE {
        Vec t[Rows][Vecs] = {};
        add_unit<Part * SumQuads, SumQuads>(source, x + unit * kInputs, t);
        finish_sum<Rows, Vecs>(t, by, unit * (kQuads / SumQuads) + Part, x + kChunk, kChunkRow, out, stride);
      });
    }
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
