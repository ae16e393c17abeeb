// How an op finds its kernels: one table of function pointers per instruction-set level.
//
// A kernel file is compiled once per level with that level's flags and -DPYLLM_LEVEL=<name>. It keeps
// everything in an anonymous namespace and exports one object named by PYLLM_LEVEL_TABLE(Kernels), so that no
// weak symbol built for a higher level can be picked by the linker for a lower one.
#pragma once

#include "core/isa.h"

#define PYLLM_CONCAT_(a, b) a##_##b
#define PYLLM_CONCAT(a, b) PYLLM_CONCAT_(a, b)

// In a kernel file: `extern const Kernels PYLLM_LEVEL_TABLE(kernels); const Kernels
// PYLLM_LEVEL_TABLE(kernels) = {...};`
#define PYLLM_LEVEL_TABLE(name) PYLLM_CONCAT(name, PYLLM_LEVEL)

// In dispatch.cpp: declares the tables of portable.cpp, and lists them for a Levels aggregate; the same for
// ops that have an amx.cpp: `{.scalar = ..., PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)}`.
#if defined(__x86_64__)
#define PYLLM_DECLARE_AMX(Type, name) extern const Type name##_amx
#define PYLLM_AMX_LEVEL(name) , .amx = &name##_amx
#define PYLLM_DECLARE_PORTABLE(Type, name) extern const Type name##_avx2, name##_avx512
#define PYLLM_PORTABLE_LEVELS(name) .avx2 = &name##_avx2, .avx512 = &name##_avx512
#elif defined(__aarch64__)
#define PYLLM_DECLARE_PORTABLE(Type, name) extern const Type name##_neon
#define PYLLM_PORTABLE_LEVELS(name) .neon = &name##_neon
#else
#define PYLLM_DECLARE_PORTABLE(Type, name) static_assert(true)
#define PYLLM_PORTABLE_LEVELS(name)
#endif
#if !defined(__x86_64__)
#define PYLLM_DECLARE_AMX(Type, name) static_assert(true)
#define PYLLM_AMX_LEVEL(name)
#endif

namespace pyllm {

template <class Table>
struct Levels {
  const Table* scalar;
  const Table* avx2 = nullptr;
  const Table* avx512 = nullptr;
  const Table* amx = nullptr;
  const Table* neon = nullptr;

  // The table for `isa`: its own, or the nearest one below.
  const Table& at(Isa isa) const {
    switch (isa) {
      case Isa::neon:
        return neon ? *neon : *scalar;
      case Isa::amx:
        if (amx) return *amx;
        [[fallthrough]];
      case Isa::avx512:
        if (avx512) return *avx512;
        [[fallthrough]];
      case Isa::avx2:
        if (avx2) return *avx2;
        [[fallthrough]];
      case Isa::scalar:
        break;
    }
    return *scalar;
  }

  const Table& active() const { return at(active_isa()); }
};

}  // namespace pyllm
