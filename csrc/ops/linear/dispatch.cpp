#include <cstring>

#include "core/levels.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_AMX(Kernels, kernels);

#if defined(__x86_64__)
extern const Kernels kernels_avx512_bf16;
#endif

namespace {

constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar,
                                     PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)};

[[maybe_unused]] bool has_bf16_dot() {
#if defined(PYLLM_SOFTWARE_TILES)
  return true;
#else
  static const bool has = machine_has(Extension::avx512_bf16);
  return has;
#endif
}

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  if (dtype == DType::f64) return kernels_scalar;
#if defined(__x86_64__)
  if (dtype == DType::bf16 && active_isa() == Isa::avx512 && has_bf16_dot()) return kernels_avx512_bf16;
#endif
  return kLevels.active();
}

}  // namespace

namespace {

// What stands before a packed operand: level and layout, and some of its elements as they were.
constexpr int64_t kSamples = 255;
constexpr int64_t kHeader = kSamples + 1;

// f(i, where element i of the samples lies): spread evenly over a (columns, depth) operand.
template <class F>
void for_each_sample(const Operand& right, int64_t columns, int64_t depth, const F& f) {
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t element = static_cast<int64_t>(static_cast<double>(columns * depth - 1) *
                                                 (static_cast<double>(i) / (kSamples - 1)));
    f(i, static_cast<const float*>(right.data) + element / depth * right.stride +
             element % depth * right.stride_k);
  }
}

float mark(const Operand& right) {
  const float level = static_cast<float>(static_cast<int>(active_isa()) + 1);
  return right.stride_k == 1 ? level : -level;
}

bool is_current(const Product& p) {
  bool same = p.packed[kSamples] == mark(p.right);
  for_each_sample(p.right, p.columns, p.depth, [&](int64_t i, const float* element) {
    same = same && std::memcmp(p.packed + i, element, sizeof(float)) == 0;
  });
  return same;
}

}  // namespace

void product(const Product& p) {
  Product checked = p;
  if (p.out_stride == 0) checked.out_stride = p.columns;
  if (p.packed) checked.packed = p.dtype == DType::f32 && is_current(p) ? p.packed + kHeader : nullptr;
  kernels_for(p.dtype).product(checked);
}

int64_t packed_floats(DType dtype, const Operand& right, int64_t columns, int64_t depth) {
  const Kernels& kernels = kernels_for(dtype);
  if (dtype != DType::f32 || !kernels.packed_floats || columns == 0 || depth == 0) return 0;
  return kHeader + kernels.packed_floats(right, columns, depth);
}

void pack(const Operand& right, int64_t columns, int64_t depth, float* to) {
  for_each_sample(right, columns, depth, [&](int64_t i, const float* element) { to[i] = *element; });
  to[kSamples] = mark(right);
  kernels_for(DType::f32).pack(right, columns, depth, to + kHeader);
}

}  // namespace pyllm::linear
