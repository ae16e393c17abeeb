#include <stdexcept>

#include "bench/peaks.h"
#include "core/levels.h"
#include "core/parallel.h"

namespace pyllm::peaks {

extern const Kernels kernels_scalar;
PYLLM_DECLARE_PORTABLE(Kernels, kernels);
#if defined(__x86_64__)
extern const Loop avx_vnni_loop, avx512_vnni_loop, avx512_bf16_loop;
extern const Loop amx_bf16_loop, amx_int8_loop;
#endif

namespace {

const Kernels& kernels() {
  static constexpr Levels<Kernels> levels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return levels.active();
}

}  // namespace

std::vector<Loop> loops() {
  std::vector<Loop> found = {kernels().fma};
#if defined(__x86_64__)
  const Isa level = active_isa();
  if (level == Isa::avx2 && machine_has(Extension::avx_vnni)) found.push_back(avx_vnni_loop);
#if !defined(PYLLM_SOFTWARE_AVX512)
  if (level == Isa::avx512 || level == Isa::amx) {
    if (machine_has(Extension::avx512_vnni)) found.push_back(avx512_vnni_loop);
    if (machine_has(Extension::avx512_bf16)) found.push_back(avx512_bf16_loop);
  }
#endif
  // Emulated tiles give the level, but not the extension: they have no rate worth a name.
  if (level == Isa::amx && machine_has(Extension::amx)) {
    found.push_back(amx_bf16_loop);
    found.push_back(amx_int8_loop);
  }
#endif
  return found;
}

int64_t run(const std::string& unit, int64_t threads, int64_t rounds) {
  for (const Loop& loop : loops()) {
    if (unit != loop.unit) continue;
    parallel_for(0, threads, 1, [&](int64_t first, int64_t last) { loop.run((last - first) * rounds); });
    return threads * rounds * loop.operations;
  }
  throw std::invalid_argument("peak_loop: this machine has no unit '" + unit + "' at level " +
                              isa_name(active_isa()));
}

float read(const float* data, int64_t count, int64_t threads) {
  std::vector<float> sums(static_cast<size_t>(threads));
  parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = count * first / threads, end = count * last / threads;
    sums[static_cast<size_t>(first)] = kernels().read(data + begin, end - begin);
  });
  float total = 0;
  for (float sum : sums) total += sum;
  return total;
}

void copy(const float* from, float* to, int64_t count, int64_t threads) {
  constexpr int64_t kLine = 16;  // parts begin at cache lines
  const int64_t lines = count / kLine;
  parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = lines * first / threads * kLine;
    const int64_t end = last == threads ? count : lines * last / threads * kLine;
    kernels().copy(from + begin, to + begin, end - begin);
  });
}

}  // namespace pyllm::peaks
