// int8.h on vectors. Rows become bytes once; then, for panels of 16 outputs in parallel:
//
//   for chunk of 256 inputs: its scales
//     for tiles of 4 rows
//       for sum of 32 inputs (16): codes as bytes, four products and their sum per lane and instruction pair
//         sums (rows x 16) += scale * (scale of x * sum)
//   out = sums + bias, rounded once
//
// On AVX2 32 products take |code|, the sign moved to x, a multiply of bytes, a multiply of pairs and an
// addition: five instructions, where floats take twelve and as many conversions.
#include "core/levels.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/quantized_linear/int8.h"
#include "ops/quantized_linear/int8_activations.h"
#include "ops/quantized_linear/scales.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kTileRows = 4;
constexpr int64_t kBytesAhead = 2048;  // of codes

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Lane i: the four products of lane i's codes with four activations. |x| is at most 127, so that a pair of
// products with a code of -128 still fits 16 bits.
inline PYLLM_INLINE SignedWords dot_quads(Words codes, int32_t x) {
#if defined(__AVX512BW__)
  const __m512i w = reinterpret_cast<__m512i>(codes), all = _mm512_set1_epi32(x);
  const __m512i turned = _mm512_mask_sub_epi8(all, _mm512_movepi8_mask(w), _mm512_setzero_si512(), all);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), turned);
  return reinterpret_cast<SignedWords>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  const __m256i w = reinterpret_cast<__m256i>(codes), all = _mm256_set1_epi32(x);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(all, w));
  return reinterpret_cast<SignedWords>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  SignedWords sums;
  for (int i = 0; i < kLanes; ++i) {
    sums[i] = 0;
    for (int byte = 0; byte < 4; ++byte) {
      sums[i] += static_cast<int8_t>(codes[i] >> 8 * byte) * static_cast<int8_t>(x >> 8 * byte);
    }
  }
  return sums;
#endif
}

// A quad's codes as signed bytes.
template <class Policy, int Q>
inline PYLLM_INLINE Words signed_bytes(const uint8_t* unit, const Table& table, int vec) {
  if constexpr (std::is_same_v<Policy, Nibbles>) return quad_bytes<4, Q, 0>(unit, vec);
  return Policy::template quad<Q>(unit, table, vec);
}

// sums += quads [First, First + Count) of one unit.
template <class Policy, int First, int Count, int Rows>
inline PYLLM_INLINE void add_quads(const uint8_t* unit, const Table& table, const ByteRow* rows, int64_t at,
                                   SignedWords (&sums)[Rows][kVecs]) {
  if constexpr (Count > 0) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const Words codes = signed_bytes<Policy, First>(unit, table, v);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        int32_t x;
        __builtin_memcpy(&x, rows[r].bytes.data() + at * kInputs + 4 * First, 4);
        sums[r][v] += dot_quads(codes, x);
      }
    }
    add_quads<Policy, First + 1, Count - 1>(unit, table, rows, at, sums);
  }
}

// out (Rows x 16) += sum `Part` of the unit `at`, the chunk's `unit`-th.
template <class Policy, int Part, int Rows>
inline PYLLM_INLINE void add_sum(const packed::Weight& weight, const uint8_t* codes, const Table& table,
                                 const ChunkScales& scales, const ByteRow* rows, int64_t at, int64_t unit,
                                 float* out) {
  constexpr int kSums = kQuads / Policy::kSumQuads;
  SignedWords sums[Rows][kVecs] = {};
  add_quads<Policy, Part * Policy::kSumQuads, Policy::kSumQuads>(codes, table, rows, at, sums);
  const int64_t sum = unit * kSums + Part;
  for (int r = 0; r < Rows; ++r) {
    const int32_t* halves = rows[r].sums.data() + 2 * at;
    const int32_t total = kSums == 2 ? halves[Part] : halves[0] + halves[1];
    const float scale_x = rows[r].scales[static_cast<size_t>(at)];
    const Vec minus_total = set1(-(scale_x * static_cast<float>(total)));
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      float* to = out + r * kOutputs + v * kLanes;
      const Vec t = set1(scale_x) * float_of(sums[r][v] - total * weight.format->center);
      Vec y = fma(load(scales.scale[sum] + v * kLanes), t, load(to));
      if (weight.format->minimum != packed::Minimum::none) {
        y = fma(load(scales.minimum[sum] + v * kLanes), minus_total, y);
      }
      store(to, y);
    }
  }
}

template <class Policy, int Rows>
void add_tiles(const packed::Weight& weight, int64_t panel, const Table& table, const ChunkScales& scales,
               const std::vector<ByteRow>& rows, int64_t row, int64_t first, int64_t units, float* sums) {
  const int64_t count = static_cast<int64_t>(rows.size());
  for (; row + Rows <= count; row += Rows) {
    for (int64_t unit = 0; unit < units; ++unit) {
      const uint8_t* codes = weight.unit(panel, first + unit);
      for (int64_t byte = 0; byte < Policy::kUnitBytes; byte += kCacheLine) {
        __builtin_prefetch(codes + kBytesAhead + byte);
      }
      float* out = sums + row * kOutputs;
      add_sum<Policy, 0, Rows>(weight, codes, table, scales, &rows[static_cast<size_t>(row)], first + unit,
                               unit, out);
      if constexpr (Policy::kSumQuads < kQuads) {
        add_sum<Policy, 1, Rows>(weight, codes, table, scales, &rows[static_cast<size_t>(row)], first + unit,
                                 unit, out);
      }
    }
  }
  if constexpr (Rows > 1) {
    if (row < count) add_tiles<Policy, Rows / 2>(weight, panel, table, scales, rows, row, first, units, sums);
  }
}

template <class T>
std::vector<ByteRow> bytes_of(const Product& p) {
  std::vector<ByteRow> rows(static_cast<size_t>(p.rows), ByteRow(p.weight.layout.units));
  parallel_for(0, p.rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      round_row(static_cast<const T*>(p.left) + row * p.stride, p.weight.layout.inputs,
                p.weight.format->group == 0, rows[static_cast<size_t>(row)]);
    }
  });
  return rows;
}

template <class T>
void finish(const Product& p, int64_t panel, const float* sums) {
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

template <class Policy, class T>
void forward_as(const Product& p, const Table& table) {
  const std::vector<ByteRow> rows = bytes_of<T>(p);
  const int64_t units = p.weight.layout.units;
  parallel_for(0, p.weight.layout.panels, 1, [&](int64_t begin, int64_t end) {
    const Scratch sums(p.rows * kOutputs);
    ChunkScales scales;
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int64_t i = 0; i < p.rows * kOutputs; i += kLanes) store(sums.get() + i, zero());
      for (int64_t first = 0; first < units; first += kChunkUnits) {
        const int64_t count = smaller(kChunkUnits, units - first);
        load_scales(p.weight, panel, first / kChunkUnits, 4 * Policy::kSumQuads,
                    count * kQuads / Policy::kSumQuads, scales);
        add_tiles<Policy, kTileRows>(p.weight, panel, table, scales, rows, 0, first, count, sums.get());
      }
      finish<T>(p, panel, sums.get());
    }
  });
}

void run(const Product& p) {
  if (p.rows == 0) return;
  with_policy(*p.weight.format, [&](auto policy, const Table& table) {
    using Policy = decltype(policy);
    if constexpr (!std::is_same_v<Policy, NibblesOfFloats> && !std::is_same_v<Policy, Float8>) {
      if (p.dtype == DType::f32) forward_as<Policy, float>(p, table);
      if (p.dtype == DType::bf16) forward_as<Policy, bfloat16>(p, table);
      if (p.dtype == DType::f16) forward_as<Policy, float16>(p, table);
    }
  });
}

}  // namespace

extern const Int8Forward PYLLM_LEVEL_TABLE(int8_forward);
const Int8Forward PYLLM_LEVEL_TABLE(int8_forward) = run;

}  // namespace pyllm::quantized_linear
