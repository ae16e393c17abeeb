// Random cases of the CUDA kernels, simulated, beside the reference kernels; tensors in heap blocks of their
// exact size.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../native/harness.h"
#include "core/gpu_context.h"

namespace pyllm::test {

// Scratch memory from the heap, poisoned with NaN.
class HeapContext : public gpu::Context {
 public:
  void* stream() const override { return nullptr; }
  void* allocate(size_t bytes) override {
    blocks_.emplace_back(new char[bytes]);
    std::memset(blocks_.back().get(), 0xFF, bytes);
    return blocks_.back().get();
  }

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
};

constexpr DType kCudaDTypes[] = {DType::f32, DType::bf16, DType::f16};

// True if some number is NaN in the first alone: distances do not see those.
inline bool has_new_nan(const Values& simulated, const Values& reference) {
  for (int64_t i = 0; i < reference.count(); ++i) {
    if (std::isnan(simulated[i]) && !std::isnan(reference[i])) return true;
  }
  return false;
}

// Compares two runs of one op, each a list of tensors.
inline void check_near(const std::vector<Values>& simulated, const std::vector<Values>& reference) {
  for (size_t i = 0; i < reference.size(); ++i) {
    const double distance =
        has_new_nan(simulated[i], reference[i]) ? INFINITY : simulated[i].distance(reference[i]);
    if (distance <= tolerance(reference[i].dtype(), "cuda")) continue;
    std::fprintf(stderr, "output %zu is %g off the reference%s\n", i, distance, g_where.c_str());
    std::exit(1);
  }
}

// An lse of -infinity in both, as of rows without keys, becomes 0 in both.
inline void hide_rows_without_keys(Values& simulated, Values& reference) {
  for (int64_t i = 0; i < reference.count(); ++i) {
    if (!std::isinf(reference[i]) || simulated[i] != reference[i]) continue;
    reference.set(i, 0);
    simulated.set(i, 0);
  }
}

void adamw_case(Dice&);
void attention_case(Dice&);
void gradient_norm_case(Dice&);
void layer_norm_case(Dice&);
void paged_attention_case(Dice&);
void rms_norm_case(Dice&);
void rope_case(Dice&);
void swiglu_case(Dice&);

}  // namespace pyllm::test
