// The eight tile registers of AMX: configuration, loads, stores and the bf16 product. Included by amx*.cpp
// only.
//
//   C (16 x 16 floats)  +=  A (16 rows x 32 bf16)  .  B (16 pairs of rows x 16 columns x 2 bf16)
//
//   A   row m is 32 consecutive k's of one row of the left operand
//   B   row p holds k = 2p and 2p + 1 of each column side by side: (k=2p, n=0) (k=2p+1, n=0) (k=2p, n=1) ...
//
// One product, TDPBF16PS, takes 16 cycles, a load from the first-level cache 8, and rounds as follows
// (measured): per element of C the even k's are one chain of fused multiply-adds from zero, the odd k's
// another; the two are added, and their sum is added to C. Denormals are flushed. Rows of A do not influence
// each other.
//
// With PYLLM_SOFTWARE_TILES the registers are ordinary memory and the arithmetic is AVX-512's, in the same
// order, so that tests of these kernels run, with the same bits, on machines that have no tiles.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace pyllm {
namespace {

constexpr int64_t kAmxRows = 16;     // rows of A and C, pairs of rows of B
constexpr int64_t kAmxColumns = 16;  // columns of B and C
constexpr int64_t kAmxDepth = 32;    // k's of A and B
constexpr int64_t kAmxRowBytes = 64;
constexpr int64_t kAmxElements = kAmxRows * kAmxColumns;  // of C

// Rows and bytes per row of each register, as LDTILECFG reads them.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr void set(int tile, int64_t row_count, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(row_count);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);

// Every register at its full size.
constexpr TileShapes full_tiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kAmxRows, kAmxRowBytes);
  return shapes;
}

#if defined(PYLLM_SOFTWARE_TILES)

struct SoftwareTiles {
  TileShapes shapes;
  alignas(64) uint8_t data[8][kAmxRows * kAmxRowBytes];
};
inline thread_local SoftwareTiles g_tiles;

[[maybe_unused]] inline void load_tile_shapes(const TileShapes& shapes) {
  g_tiles.shapes = shapes;
  std::memset(g_tiles.data, 0, sizeof g_tiles.data);
}
[[maybe_unused]] inline void release_tiles() { load_tile_shapes({}); }

template <int Tile>
[[maybe_unused]] inline void zero_tile() {
  std::memset(g_tiles.data[Tile], 0, sizeof g_tiles.data[Tile]);
}

template <int Tile>
[[maybe_unused]] inline void load_tile(const void* from, int64_t stride_bytes) {
  zero_tile<Tile>();
  for (int64_t row = 0; row < g_tiles.shapes.rows[Tile]; ++row) {
    std::memcpy(g_tiles.data[Tile] + row * kAmxRowBytes,
                static_cast<const uint8_t*>(from) + row * stride_bytes, g_tiles.shapes.row_bytes[Tile]);
  }
}
template <int Tile>
[[maybe_unused]] inline void load_tile_once(const void* from, int64_t stride_bytes) {
  load_tile<Tile>(from, stride_bytes);
}

template <int Tile>
[[maybe_unused]] inline void store_tile(void* to, int64_t stride_bytes) {
  for (int64_t row = 0; row < g_tiles.shapes.rows[Tile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride_bytes, g_tiles.data[Tile] + row * kAmxRowBytes,
                g_tiles.shapes.row_bytes[Tile]);
  }
}

template <int C, int A, int B>
[[maybe_unused]] inline void dot_bf16_tiles() {
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const int64_t pairs = g_tiles.shapes.row_bytes[A] / 4;
  for (int64_t m = 0; m < g_tiles.shapes.rows[C]; ++m) {
    float* sums = reinterpret_cast<float*>(g_tiles.data[C] + m * kAmxRowBytes);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; ++p) {
      int32_t pair;
      std::memcpy(&pair, g_tiles.data[A] + m * kAmxRowBytes + p * 4, 4);
      const __m512i a = _mm512_set1_epi32(pair), b = _mm512_load_si512(g_tiles.data[B] + p * kAmxRowBytes);
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high_half)),
                            _mm512_castsi512_ps(_mm512_and_si512(b, high_half)), odd);
    }
    _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), _mm512_add_ps(even, odd)));
  }
}

#else

// Inline assembly, because GCC's intrinsics are macros that paste the register number and cannot take a
// template's. The dummy operands tell the compiler which memory is read, or that any may be written.

[[maybe_unused]] inline void load_tile_shapes(const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}
[[maybe_unused]] inline void release_tiles() { asm volatile("tilerelease"); }

template <int Tile>
[[maybe_unused]] inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

template <int Tile>
[[maybe_unused]] inline void load_tile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride_bytes), "i"(Tile), "m"(*static_cast<const char (*)[]>(from)));
}

// For operands that are read a single time: the line is marked as the next to leave the caches.
template <int Tile>
[[maybe_unused]] inline void load_tile_once(const void* from, int64_t stride_bytes) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride_bytes), "i"(Tile), "m"(*static_cast<const char (*)[]>(from)));
}

template <int Tile>
[[maybe_unused]] inline void store_tile(void* to, int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride_bytes), "i"(Tile) : "memory");
}

template <int C, int A, int B>
[[maybe_unused]] inline void dot_bf16_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

// Tiles belong to a thread and cost it a larger state to save: they are held for the length of a parallel
// body only.
class TileScope {
 public:
  explicit TileScope(const TileShapes& shapes) { load_tile_shapes(shapes); }
  ~TileScope() { release_tiles(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace
}  // namespace pyllm
