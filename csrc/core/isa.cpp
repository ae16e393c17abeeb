#include "core/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace pyllm {
namespace {

constexpr std::pair<Isa, const char*> kNames[] = {{Isa::scalar, "scalar"},
                                                  {Isa::avx2, "avx2"},
                                                  {Isa::avx512, "avx512"},
                                                  {Isa::amx, "amx"},
                                                  {Isa::neon, "neon"}};

#if defined(__x86_64__)
bool amx_is_granted() {
#if defined(__linux__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  if ((edx & (kAmxBf16 | kAmxTile | kAmxInt8)) != (kAmxBf16 | kAmxTile | kAmxInt8)) return false;
  // Linux keeps the tile registers off until a process asks for them.
  constexpr long kArchRequestPermission = 0x1023, kXTileData = 18;
  return syscall(SYS_arch_prctl, kArchRequestPermission, kXTileData) == 0;
#else
  return false;
#endif
}

// -DPYLLM_SOFTWARE_AVX512 and -DPYLLM_SOFTWARE_TILES: builds for tests on machines that lack the
// instructions.
bool has_avx512() {
#if defined(PYLLM_SOFTWARE_AVX512)
  return true;
#else
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}

bool has_amx() {
#if defined(PYLLM_SOFTWARE_TILES)
  return true;
#else
  return machine_has(Extension::amx);
#endif
}
#endif

Isa probe() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))) {
    return Isa::scalar;
  }
  if (!has_avx512()) return Isa::avx2;
  return has_amx() ? Isa::amx : Isa::avx512;
#elif defined(__aarch64__)
  return Isa::neon;
#else
  return Isa::scalar;
#endif
}

Isa checked(const std::string& name) {
  Isa isa;
  try {
    isa = parse_isa(name);
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error("PYLLM_ISA: " + std::string(error.what()));
  }
  if (!machine_supports(isa)) {
    throw std::runtime_error("PYLLM_ISA=" + name + ": this machine supports at most " +
                             isa_name(machine_isa()));
  }
  return isa;
}

constexpr int kUnset = -1;
std::atomic<int> g_active{kUnset};

}  // namespace

const char* isa_name(Isa isa) {
  for (const auto& [level, name] : kNames) {
    if (level == isa) return name;
  }
  return "unknown";
}

Isa parse_isa(const std::string& name) {
  for (const auto& [level, level_name] : kNames) {
    if (name == level_name) return level;
  }
  throw std::invalid_argument("unknown instruction-set level '" + name +
                              "', expected scalar, avx2, avx512, amx or neon");
}

Isa machine_isa() {
  static const Isa isa = probe();
  return isa;
}

const char* extension_name(Extension extension) {
  switch (extension) {
    case Extension::avx_vnni:
      return "avx_vnni";
    case Extension::avx512_vnni:
      return "avx512_vnni";
    case Extension::avx512_bf16:
      return "avx512_bf16";
    case Extension::amx:
      break;
  }
  return "amx";
}

bool machine_has([[maybe_unused]] Extension extension) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (extension) {
    case Extension::avx_vnni:
      return __builtin_cpu_supports("avxvnni");
    case Extension::avx512_vnni:
      return __builtin_cpu_supports("avx512vnni");
    case Extension::avx512_bf16:
      return __builtin_cpu_supports("avx512bf16");
    case Extension::amx:
      static const bool granted = amx_is_granted();
      return granted;
  }
#endif
  return false;
}

bool machine_supports(Isa isa) {
  if (isa == Isa::scalar) return true;
  if (isa == Isa::neon || machine_isa() == Isa::neon) return isa == machine_isa();
  return static_cast<int>(isa) <= static_cast<int>(machine_isa());
}

Isa active_isa() {
  int active = g_active.load(std::memory_order_relaxed);
  if (active == kUnset) {
    const char* forced = std::getenv("PYLLM_ISA");
    active = static_cast<int>(forced && *forced ? checked(forced) : machine_isa());
    g_active.store(active, std::memory_order_relaxed);
  }
  return static_cast<Isa>(active);
}

void force_isa(const std::string& name) {
  g_active.store(static_cast<int>(checked(name)), std::memory_order_relaxed);
}

}  // namespace pyllm
