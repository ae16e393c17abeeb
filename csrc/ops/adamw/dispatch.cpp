#include <algorithm>
#include <vector>

#include "core/levels.h"
#include "core/parallel.h"
#include "ops/adamw/adamw.h"

namespace pyllm::adamw {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

void run(const Step* steps, int64_t count) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  const Kernels& active = kLevels.active();
  std::vector<Constants> constants;
  std::vector<int64_t> ends;  // chunks of a tensor and of those before it
  int64_t chunks = 0;
  for (const Step* s = steps; s != steps + count; ++s) {
    constants.push_back(constants_of(*s));
    ends.push_back(chunks += (s->count + kChunk - 1) / kChunk);
  }
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    auto tensor = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (ends[tensor] <= chunk) ++tensor;
      const Step& s = steps[tensor];
      const int64_t first = (chunk - (tensor ? ends[tensor - 1] : 0)) * kChunk;
      // Doubles always run the reference.
      const Kernels& kernels = s.dtype == DType::f64 ? kernels_scalar : active;
      kernels.run(s, constants[tensor], first, std::min(kChunk, s.count - first));
    }
  });
}

}  // namespace pyllm::adamw
