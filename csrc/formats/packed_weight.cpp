#include "formats/packed_weight.h"

namespace pyllm::packed {
namespace {

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// E2M1, doubled.
constexpr float kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
// Quantiles of the normal distribution (Dettmers et al., "QLoRA", 2023).
constexpr float kNormal4[16] = {-1.0f,
                                -0.6961928009986877f,
                                -0.5250730514526367f,
                                -0.39491748809814453f,
                                -0.28444138169288635f,
                                -0.18477343022823334f,
                                -0.09105003625154495f,
                                0.0f,
                                0.07958029955625534f,
                                0.16093020141124725f,
                                0.24611230194568634f,
                                0.33791524171829224f,
                                0.44070982933044434f,
                                0.5626170039176941f,
                                0.7229568362236023f,
                                1.0f};

constexpr DType f16 = DType::f16, f32 = DType::f32, bf16 = DType::bf16;
constexpr auto none = Minimum::none;

constexpr Format integers(const char* name, int bits, int center, int64_t group, DType scale,
                          Minimum minimum = none) {
  return {name, bits, Values::integers, center, nullptr, group, scale, false, minimum};
}
constexpr Format nested(const char* name, int bits, int center, int64_t group, Minimum minimum = none) {
  return {name, bits, Values::integers, center, nullptr, group, f16, true, minimum};
}
constexpr Format table(const char* name, const float* values, int64_t group, DType scale,
                       bool is_nested = false) {
  return {name, 4, Values::table, 0, values, group, scale, is_nested, none};
}
constexpr Format float8(const char* name, int64_t group) {
  return {name, 8, Values::float8, 0, nullptr, group, f32, false, none};
}

// Integers of groups: `_zp` have zero points; scales that float16 does not hold are `_f32`.
#define PYLLM_GROUPS(width, bits, center)                                                                 \
  integers(width, bits, center, 0, f32), integers(width "_zp", bits, 0, 0, f32, Minimum::zeros),          \
      integers(width "_g32", bits, center, 32, f16), integers(width "_g64", bits, center, 64, f16),       \
      integers(width "_g128", bits, center, 128, f16), integers(width "_g32_f32", bits, center, 32, f32), \
      integers(width "_g64_f32", bits, center, 64, f32),                                                  \
      integers(width "_g128_f32", bits, center, 128, f32),                                                \
      integers(width "_g32_zp", bits, 0, 32, f16, Minimum::zeros),                                        \
      integers(width "_g64_zp", bits, 0, 64, f16, Minimum::zeros),                                        \
      integers(width "_g128_zp", bits, 0, 128, f16, Minimum::zeros),                                      \
      integers(width "_g32_zp_f32", bits, 0, 32, f32, Minimum::zeros),                                    \
      integers(width "_g64_zp_f32", bits, 0, 64, f32, Minimum::zeros),                                    \
      integers(width "_g128_zp_f32", bits, 0, 128, f32, Minimum::zeros)

constexpr Format kFormats[] = {
    integers("q4_0", 4, 8, 32, f16),
    integers("q4_1", 4, 0, 32, f16, Minimum::plain),
    integers("q5_0", 5, 16, 32, f16),
    integers("q5_1", 5, 0, 32, f16, Minimum::plain),
    integers("q8_0", 8, 0, 32, f16),
    nested("q2_k", 2, 0, 16, Minimum::nested),
    nested("q3_k", 3, 4, 16),
    nested("q4_k", 4, 0, 32, Minimum::nested),
    nested("q5_k", 5, 0, 32, Minimum::nested),
    nested("q6_k", 6, 32, 16),
    table("iq4_nl", kIq4, 32, f16),
    table("iq4_xs", kIq4, 32, f16, true),
    table("mxfp4", kE2M1, 32, bf16),
    table("nf4", kNormal4, 64, f32),
    float8("fp8_e4m3", 0),
    float8("fp8_e4m3_g128", 128),
    PYLLM_GROUPS("int4", 4, 8),
    PYLLM_GROUPS("int8", 8, 0),
};
#undef PYLLM_GROUPS

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t lines(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

}  // namespace

const Format* find_format(const std::string& name) {
  for (const Format& candidate : kFormats) {
    if (name == candidate.name) return &candidate;
  }
  return nullptr;
}

std::string format_names() {
  std::string names;
  for (const Format& format : kFormats) names += (names.empty() ? "" : ",") + std::string(format.name);
  return names;
}

Layout layout_of(const Format& format, int64_t outputs, int64_t inputs) {
  Layout at;
  at.outputs = outputs;
  at.inputs = inputs;
  at.panels = ceil_div(outputs, kOutputs);
  at.units = ceil_div(inputs, kInputs);
  at.groups = format.group ? ceil_div(inputs, format.group) : (inputs > 0);
  at.scale_groups = format.nested ? ceil_div(inputs, kOuterGroup) : at.groups;
  const int64_t scale_bytes = lines(at.panels * at.scale_groups * kOutputs * size_of(format.scale));
  const int64_t byte_per_group = lines(at.panels * at.groups * kOutputs);
  const bool has_minimums = format.minimum == Minimum::plain || format.minimum == Minimum::nested;
  const bool has_subminimums = format.minimum == Minimum::zeros || format.minimum == Minimum::nested;
  at.scales = at.panels * at.units * kOutputs * kInputs * format.bits / 8;
  at.subscales = at.scales + scale_bytes;
  at.minimums = at.subscales + (format.nested ? byte_per_group : 0);
  at.subminimums = at.minimums + (has_minimums ? scale_bytes : 0);
  at.bytes = at.subminimums + (has_subminimums ? byte_per_group : 0);
  return at;
}

}  // namespace pyllm::packed
