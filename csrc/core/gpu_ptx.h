// Instructions that CUDA C++ has no name for. Every one that is inline assembly has a twin for the simulator;
// the PTX interpreter (tests/cuda/ptx) runs the assembly itself.
//
// Fragments of mma.m16n8k16 in a warp, lane = 4 g + t (PTX manual, "Matrix fragments for mma.m16n8k16"):
//
//   A (16 x 16)  a[0] = A[g][2t, 2t+1]    a[1] = A[g+8][2t, 2t+1]    a[2], a[3] the same at columns + 8
//   B (16 x 8)   b[0] = B[2t, 2t+1][g]    b[1] = B[2t+8, 2t+9][g]
//   C, D (16x8)  c[0], c[1] = C[g][2t, 2t+1]    c[2], c[3] = C[g+8][2t, 2t+1]
#pragma once

#include "core/gpu.h"

namespace pyllm::gpu {

// --- 16-bit floats
// ---------------------------------------------------------------------------------------------------

GPU_FN float to_float(float x) { return x; }

GPU_FN float to_float(bfloat16 x) {
#ifdef __CUDACC__
  return __uint_as_float(uint32_t{x.bits} << 16);
#else
  return to_accumulator(x);
#endif
}

GPU_FN float to_float(float16 x) {
#ifdef __CUDACC__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
#else
  return to_accumulator(x);
#endif
}

// Rounded to nearest, ties to even; `low` in the low half.
template <class T>
GPU_FN uint32_t pack(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  return from_accumulator<T>(low).bits | uint32_t{from_accumulator<T>(high).bits} << 16;
#endif
}

template <class T>
GPU_FN T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return T{static_cast<uint16_t>(pack<T>(x, 0.0f))};
  }
}

// --- arithmetic
// ------------------------------------------------------------------------------------------------------

// 2^x to 2 ulp; results below 2^-126 are zero.
GPU_FN float exp2_fast(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
#endif
}

// d += a b, sums in float.
template <class T>
GPU_FN void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 GPU_SITE) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  simulator::mma_m16n8k16<T>(d, a, b0, b1, site);
#endif
}

// --- shared memory
// ---------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements: lane 8 i + j names row j of matrix i, 16 bytes at 16. Lane 4 g + t
// gets elements (g, 2t) and (g, 2t + 1) of matrix i in r[i]; transposed, elements (2t, g) and (2t + 1, g).
template <bool kTransposed>
GPU_FN void ldmatrix(uint32_t (&r)[4], const void* row GPU_SITE) {
#ifdef __CUDACC__
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
#else
  simulator::ldmatrix_x4(r, row, kTransposed, site);
#endif
}

// Starts a copy of kBytes, 16 or 4, from global to shared memory, or of zeros where `valid` is false; both
// addresses must be multiples of kBytes, and `from` must be readable only where `valid`.
template <int kBytes>
GPU_FN void copy_async(void* to, const void* from, bool valid GPU_SITE) {
  static_assert(kBytes == 16 || kBytes == 4);
#ifdef __CUDACC__
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {  // past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes)
                 : "memory");
  }
#else
  simulator::copy_async(to, from, kBytes, valid, site);
#endif
}

// Closes a group of the calling thread's copies.
GPU_FN void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simulator::commit_copies();
#endif
}

// Waits until all but the last kGroups groups of the calling thread have landed.
template <int kGroups>
GPU_FN void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  simulator::wait_for_copies(kGroups);
#endif
}

}  // namespace pyllm::gpu
