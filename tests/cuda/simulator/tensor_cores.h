// Twins of the inline assembly in csrc/core/gpu_ptx.h: what each instruction does to the registers of a warp.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "simulator/block.h"

namespace pyllm::simulator {

template <class T>
struct MmaRegisters {
  float d[4];
  uint32_t a[4], b[2];
};

// The matrices of a warp, from and to the lanes' registers by the map in gpu_ptx.h.
template <class T>
SIMULATOR_REGISTERS inline void multiply(MmaRegisters<T>* const* lanes) {
  float a[16][16], b[16][8], sum[16][8];
  const auto half = [](uint32_t pair, int i) SIMULATOR_REGISTERS {
    return to_accumulator(T{static_cast<uint16_t>(i ? pair >> 16 : pair)});
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const MmaRegisters<T>& r = *lanes[lane];
    for (int i = 0; i < 2; ++i) {
      for (int n = 0; n < 4; ++n) a[g + n % 2 * 8][2 * t + i + n / 2 * 8] = half(r.a[n], i);
      for (int n = 0; n < 2; ++n) b[2 * t + i + n * 8][g] = half(r.b[n], i);
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      sum[row][column] = 0;
      for (int k = 0; k < 16; ++k) sum[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) lanes[lane]->d[i] += sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Site& site) {
  MmaRegisters<T> mine{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  exchange(~0u, "mma.m16n8k16", site, mine, multiply<T>);
  for (int i = 0; i < 4; ++i) d[i] = mine.d[i];
}

// Each lane reads the row it names, so that the sanitizers see whose access it is; then the rows change
// hands.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed, const Site& site) {
  if (reinterpret_cast<uintptr_t>(row) % 16)
    fail("ldmatrix: the address of a row is no multiple of 16", site);
  struct Registers {
    uint16_t row[8];
    uint32_t result[4];
  } mine;
  for (int i = 0; i < 8; ++i) mine.row[i] = static_cast<const uint16_t*>(row)[i];
  const char* name = transposed ? "ldmatrix.trans" : "ldmatrix";
  exchange(~0u, name, site, mine, [transposed](Registers* const* lanes) SIMULATOR_REGISTERS {
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        Registers* const* matrix = lanes + 8 * i;
        const uint32_t first = transposed ? matrix[t]->row[g] : matrix[g]->row[t];
        const uint32_t second = transposed ? matrix[t + 1]->row[g] : matrix[g]->row[t + 1];
        lanes[lane]->result[i] = first | second << 16;
      }
    }
  });
  for (int i = 0; i < 4; ++i) r[i] = mine.result[i];
}

// Reads both ends now: the address sanitizer then names this line and not that of the wait.
inline void copy_async(void* to, const void* from, uint32_t bytes, bool valid, const Site& site) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) {
    fail("cp.async: an address is no multiple of " + std::to_string(bytes), site);
  }
  if (valid) {
    const volatile char* source = static_cast<const char*>(from);
    static_cast<void>(source[0]);
    static_cast<void>(source[bytes - 1]);
  }
  copy_later({to, from, bytes, valid ? bytes : 0});
}

}  // namespace pyllm::simulator
