//   simulated_tests CASES [SEED [OP]]    so many random cases of every op, or of one; exits with 1 at the
//   first that fails
#include "cases.h"

namespace pyllm::test {
namespace {

struct Op {
  const char* name;
  void (*run)(Dice&);
};
constexpr Op kOps[] = {{"adamw", adamw_case},
                       {"attention", attention_case},
                       {"gradient_norm", gradient_norm_case},
                       {"layer_norm", layer_norm_case},
                       {"paged_attention", paged_attention_case},
                       {"rms_norm", rms_norm_case},
                       {"rope", rope_case},
                       {"swiglu", swiglu_case}};

void run(const Op& op, uint64_t first, uint64_t cases) {
  for (uint64_t seed = first; seed < first + cases; ++seed) {
    g_where = std::string(" (") + op.name + ", seed " + std::to_string(seed) + ")";
    Dice dice(seed);
    HeapContext context;
    const gpu::ContextScope scope(context);
    op.run(dice);
  }
  std::printf("%s ok\n", op.name);
}

}  // namespace
}  // namespace pyllm::test

int main(int count, char** arguments) {
  using namespace pyllm::test;
  const uint64_t cases = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 10;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  try {
    for (const Op& op : kOps) {
      if (count <= 3 || std::string(op.name) == arguments[3]) run(op, seed, cases);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s%s\n", error.what(), g_where.c_str());
    return 1;
  }
  return 0;
}
