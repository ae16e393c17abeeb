#include "bench/peaks.h"

#include "bindings/torch/tensor.h"
#include "core/isa.h"

namespace pyllm::binding {
namespace {

void append(std::string& list, const char* name) {
  if (!list.empty()) list += ',';
  list += name;
}

std::string extensions() {
  std::string names;
  for (Extension extension : kExtensions) {
    if (machine_has(extension)) append(names, extension_name(extension));
  }
  return names;
}

std::string peak_units() {
  std::string names;
  for (const peaks::Loop& loop : peaks::loops()) append(names, loop.unit);
  return names;
}

int64_t peak_loop(std::string unit, int64_t threads, int64_t rounds) {
  check(threads > 0 && rounds >= 0, "peak_loop", "threads must be positive and rounds not negative");
  return peaks::run(unit, threads, rounds);
}

void check_floats(const Tensor& x, int64_t threads, const char* op) {
  check(threads > 0, op, "threads must be positive");
  check(x.scalar_type() == ScalarType::Float && x.is_contiguous(), op, "tensors must be contiguous float32");
}

double peak_read(Tensor x, int64_t threads) {
  check_floats(x, threads, "peak_read");
  return peaks::read(static_cast<const float*>(x.const_data_ptr()), x.numel(), threads);
}

void peak_copy(Tensor x, Tensor out, int64_t threads) {
  check_floats(x, threads, "peak_copy");
  check_floats(out, threads, "peak_copy");
  check_same_shape(x, out, "peak_copy", "out");
  check(reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 64 == 0, "peak_copy",
        "out must be aligned to 64 bytes");
  peaks::copy(static_cast<const float*>(x.const_data_ptr()), static_cast<float*>(out.mutable_data_ptr()),
              x.numel(), threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def("extensions() -> str");
  m.def("peak_units() -> str");
  m.def("peak_loop(str unit, int threads, int rounds) -> int");
  m.def("peak_read(Tensor x, int threads) -> float");
  m.def("peak_copy(Tensor x, Tensor(a!) out, int threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CompositeExplicitAutograd, m) {
  m.impl("extensions", TORCH_BOX(&extensions));
  m.impl("peak_units", TORCH_BOX(&peak_units));
  m.impl("peak_loop", TORCH_BOX(&peak_loop));
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("peak_read", TORCH_BOX(&peak_read));
  m.impl("peak_copy", TORCH_BOX(&peak_copy));
}

}  // namespace pyllm::binding
