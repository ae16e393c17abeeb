// Opens the operator namespace `pyllm`, lends torch's threads to the kernels, and answers what runs where.
// Each op's schemas and shims stand in the file of its name beside this one.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <string>

#include "core/isa.h"
#include "core/parallel.h"

namespace pyllm::binding {
namespace {

void run_on_torch_threads(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  torch::stable::parallel_for(begin, end, grain, [=](int64_t b, int64_t e) { body(context, b, e); });
}

const bool g_runner_set = [] {
  set_parallel_runner(run_on_torch_threads);
  return true;
}();

std::string machine_isa_name() { return isa_name(machine_isa()); }
std::string active_isa_name() { return isa_name(active_isa()); }
std::string compiled_levels() { return PYLLM_COMPILED_LEVELS; }
void force_isa_name(std::string name) { force_isa(name); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("machine_isa() -> str");
  m.def("active_isa() -> str");
  m.def("compiled_levels() -> str");
  m.def("force_isa(str name) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CompositeExplicitAutograd, m) {
  m.impl("machine_isa", TORCH_BOX(&machine_isa_name));
  m.impl("active_isa", TORCH_BOX(&active_isa_name));
  m.impl("compiled_levels", TORCH_BOX(&compiled_levels));
  m.impl("force_isa", TORCH_BOX(&force_isa_name));
}

}  // namespace pyllm::binding
