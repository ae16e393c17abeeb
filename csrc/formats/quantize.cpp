#include "formats/quantize.h"

#include "core/parallel.h"
#include "formats/superblock.h"

namespace pyllm::gguf {
namespace {

// x ~ d * (entry of Grid) over one block of 32.
template <class Grid>
Half quantize_scaled(const float* x, uint8_t* codes) {
  const Half d = to_half(fit_scale<Grid>(x, 32));
  const float inverse = inverse_or_zero(d);
  for (int j = 0; j < 32; ++j) codes[j] = Grid::code(x[j] * inverse);
  return d;
}

template <int Top, class Block>
void quantize_affine(const float* x, Block& block, uint8_t* codes) {
  const Affine fit = fit_affine<Top>(x, 32, false);
  block.d = to_half(fit.scale), block.m = to_half(fit.min);
  const float inverse = inverse_or_zero(block.d), min = block.m;
  for (int j = 0; j < 32; ++j) codes[j] = static_cast<uint8_t>(affine_code(x[j], inverse, min, Top));
}

void quantize(const float* x, Q4_0& block) {
  uint8_t codes[32];
  block.d = quantize_scaled<Integers<-8, 7>>(x, codes);
  pack_nibbles(codes, block.qs);
}

void quantize(const float* x, Q4_1& block) {
  uint8_t codes[32];
  quantize_affine<15>(x, block, codes);
  pack_nibbles(codes, block.qs);
}

void quantize(const float* x, Q5_0& block) {
  uint8_t codes[32];
  block.d = quantize_scaled<Integers<-16, 15>>(x, codes);
  pack_nibbles(codes, block.qs);
  pack_fifth_bits(codes, block.qh);
}

void quantize(const float* x, Q5_1& block) {
  uint8_t codes[32];
  quantize_affine<31>(x, block, codes);
  pack_nibbles(codes, block.qs);
  pack_fifth_bits(codes, block.qh);
}

// Eight bits are so fine that the largest weight alone sets the scale.
void quantize(const float* x, Q8_0& block) {
  block.d = to_half(largest_magnitude(x, 32) / 127);
  const float inverse = inverse_or_zero(block.d);
  for (int j = 0; j < 32; ++j) block.qs[j] = static_cast<int8_t>(nearest(clamped(x[j] * inverse, -127, 127)));
}

void quantize(const float* x, Q2_K& block) {
  const AffineSuperblock<3, 16, 15> fit(x);
  block.d = fit.d, block.dmin = fit.dmin;
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<uint8_t>(fit.scale[g] | fit.min[g] << 4);
  pack_pairs(fit.codes, block.qs);
}

void quantize(const float* x, Q3_K& block) {
  const ScaledSuperblock<Integers<-4, 3>, 16, -32, 31> fit(x);
  uint8_t scale[16];
  for (int g = 0; g < 16; ++g) scale[g] = static_cast<uint8_t>(fit.scale[g] + 32);
  block.d = fit.d;
  pack_scales_of_16(scale, block.scales);
  pack_pairs(fit.codes, block.qs);
  pack_bits(fit.codes, 2, block.hmask);
}

void quantize(const float* x, Q4_K& block) {
  const AffineSuperblock<15, 32, 63> fit(x);
  block.d = fit.d, block.dmin = fit.dmin;
  pack_scale_min(fit.scale, fit.min, block.scales);
  pack_nibble_runs(fit.codes, block.qs);
}

void quantize(const float* x, Q5_K& block) {
  const AffineSuperblock<31, 32, 63> fit(x);
  block.d = fit.d, block.dmin = fit.dmin;
  pack_scale_min(fit.scale, fit.min, block.scales);
  pack_nibble_runs(fit.codes, block.qs);
  pack_bits(fit.codes, 4, block.qh);
}

void quantize(const float* x, Q6_K& block) {
  const ScaledSuperblock<Integers<-32, 31>, 16, -128, 127> fit(x);
  block.d = fit.d;
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<int8_t>(fit.scale[g]);
  // Low nibbles of the runs 0 and 1 of each half lie below those of 2 and 3.
  for (int j = 0; j < 128; ++j) {
    const uint8_t* run = fit.codes + j / 64 * 128 + j % 64;
    block.ql[j] = static_cast<uint8_t>((run[0] & 15) | (run[64] & 15) << 4);
  }
  uint8_t high[256];
  for (int j = 0; j < 256; ++j) high[j] = fit.codes[j] >> 4;
  pack_pairs(high, block.qh);
}

void quantize(const float* x, IQ4_NL& block) {
  uint8_t codes[32];
  block.d = quantize_scaled<Nonlinear>(x, codes);
  pack_nibbles(codes, block.qs);
}

void quantize(const float* x, IQ4_XS& block) {
  const ScaledSuperblock<Nonlinear, 32, -32, 31> fit(x);
  block.d = fit.d;
  int high = 0;
  std::memset(block.scales_l, 0, sizeof block.scales_l);
  for (int g = 0; g < 8; ++g) {
    const int scale = fit.scale[g] + 32;
    block.scales_l[g / 2] = static_cast<uint8_t>(block.scales_l[g / 2] | (scale & 15) << g % 2 * 4);
    high |= scale >> 4 << g * 2;
    pack_nibbles(fit.codes + g * 32, block.qs + g * 16);
  }
  block.scales_h[0] = static_cast<uint8_t>(high), block.scales_h[1] = static_cast<uint8_t>(high >> 8);
}

// The nearest entry of kE2M1Values. Between two entries the border is exact in float.
uint8_t float4_code(float x) {
  const float magnitude = std::fabs(x);
  int code = 0;
  while (code < 7 && magnitude > 0.5f * static_cast<float>(kE2M1Values[code] + kE2M1Values[code + 1])) ++code;
  return static_cast<uint8_t>(code | (x < 0 ? 8 : 0));
}

// Of the powers of two near the one that fits the largest weight, the one with the least error.
void quantize(const float* x, MXFP4& block) {
  const float peak = largest_magnitude(x, 32);
  block.e = 0;
  std::memset(block.qs, 0, sizeof block.qs);
  if (peak == 0) return;
  const int middle = std::ilogb(peak) - 2 + 127;
  float least = INFINITY;
  for (int e = std::clamp(middle - 1, 0, 254); e <= std::clamp(middle + 1, 0, 254); ++e) {
    const float d = halved_scale(static_cast<uint8_t>(e)), inverse = 1.0f / d;
    const float error =
        squared_error(x, 32, [&](float v) { return d * kE2M1Values[float4_code(v * inverse)]; });
    if (error < least) least = error, block.e = static_cast<uint8_t>(e);
  }
  uint8_t codes[32];
  const float inverse = 1.0f / halved_scale(block.e);
  for (int j = 0; j < 32; ++j) codes[j] = float4_code(x[j] * inverse);
  pack_nibbles(codes, block.qs);
}

template <class Block>
void pack_blocks(const float* x, int64_t count, uint8_t* blocks) {
  Block* block = reinterpret_cast<Block*>(blocks);
  for (int64_t i = 0; i < count; ++i) quantize(x + i * kElements<Block>, block[i]);
}

template <class Block>
constexpr Quantizer quantizer(const char* name) {
  return {name, kElements<Block>, sizeof(Block), pack_blocks<Block>};
}

constexpr Quantizer kQuantizers[] = {
    quantizer<Q4_0>("Q4_0"),   quantizer<Q4_1>("Q4_1"),     quantizer<Q5_0>("Q5_0"),
    quantizer<Q5_1>("Q5_1"),   quantizer<Q8_0>("Q8_0"),     quantizer<Q2_K>("Q2_K"),
    quantizer<Q3_K>("Q3_K"),   quantizer<Q4_K>("Q4_K"),     quantizer<Q5_K>("Q5_K"),
    quantizer<Q6_K>("Q6_K"),   quantizer<IQ4_NL>("IQ4_NL"), quantizer<IQ4_XS>("IQ4_XS"),
    quantizer<MXFP4>("MXFP4"),
};

}  // namespace

const Quantizer* find_quantizer(const std::string& name) {
  for (const Quantizer& candidate : kQuantizers) {
    if (name == candidate.name) return &candidate;
  }
  return nullptr;
}

void quantize(const Quantizer& quantizer, const float* x, int64_t count, uint8_t* blocks) {
  // 16,384 weights a task: hundreds of microseconds of search.
  parallel_for(0, count, 16384 / quantizer.elements, [&](int64_t begin, int64_t end) {
    quantizer.pack(x + begin * quantizer.elements, end - begin, blocks + begin * quantizer.bytes);
  });
}

}  // namespace pyllm::gguf
