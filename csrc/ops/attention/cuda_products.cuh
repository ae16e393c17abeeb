// What the attention kernels do with tiles in shared memory: fetch rows into one, multiply two, add a product
// to sums, and bring a warp's sums back to memory. A block has four warps, and each owns 16 rows, or a few
// times 16, of the tiles that belong to its block.
//
// Shared memory holds rows of kDim elements in chunks of 16 bytes, swizzled: chunk c of row r lies at place c
// ^ (r % 8) of its row, so that the eight rows of an ldmatrix hit all 32 banks; rows of 96 elements shift by
// half the banks anyway, and there the two bits above do. Heads narrower than kDim are filled up with zeros.
#pragma once

#include "core/gpu.h"
#include "core/gpu_ptx.h"
#include "core/gpu_vector.h"

namespace pyllm::attention {

constexpr int kThreads = 128, kWarps = kThreads / gpu::kWarp;

template <int kDim, class T>
GPU_FN T* chunk_at(T* tile, int row, int chunk) {
  const int swizzled = kDim % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
  return tile + row * kDim + swizzled * 8;
}

// Starts copies of kCount rows of `dim` elements: row(r) is where row r lies, null for zeros; `somewhere` is
// any place of the tensor's.
template <int kDim, int kCount, class T, class Row>
GPU_FN void fetch_rows(T* tile, const void* somewhere, int dim, const Row& row GPU_SITE) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
    const int r = i / kChunks, chunk = i % kChunks;
    const T* from = row(r);
    const bool valid = from && chunk * 8 < dim;
    gpu::copy_async<16>(chunk_at<kDim>(tile, r, chunk), valid ? from + chunk * 8 : somewhere, valid GPU_HERE);
  }
}

// s += x y^T, where x is the calling warp's strips of `own`, and y all of `other`: 8 kFragments rows.
template <int kDim, class T, int kStrips, int kFragments>
GPU_FN void multiply_transposed(const T* own, const T* other, float (&s)[kStrips][kFragments][4]) {
  const int warp = threadIdx.x / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
#pragma unroll
  for (int c = 0; c < kDim / 16; ++c) {
    uint32_t x[kStrips][4];
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      const int row = (warp * kStrips + strip) * 16 + lane % 16;
      gpu::ldmatrix<false>(x[strip], chunk_at<kDim>(own, row, 2 * c + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kFragments / 2; ++n) {
      uint32_t y[4];
      gpu::ldmatrix<false>(y, chunk_at<kDim>(other, n * 16 + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2));
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
        gpu::mma<T>(s[strip][2 * n], x[strip], y[0], y[1]);
        gpu::mma<T>(s[strip][2 * n + 1], x[strip], y[2], y[3]);
      }
    }
  }
}

// sums += p x, where p's accumulators, packed, are the A fragments as they stand, and x is `tile` from column
// 8 first_chunk on: 8 kFragments rows, 8 kOutputs columns.
template <int kDim, class T, int kStrips, int kFragments, int kOutputs>
GPU_FN void add_product(const float (&p)[kStrips][kFragments][4], const T* tile, int first_chunk,
                        float (&sums)[kStrips][kOutputs][4]) {
  const int lane = threadIdx.x % gpu::kWarp;
#pragma unroll
  for (int c = 0; c < kFragments / 2; ++c) {
    uint32_t a[kStrips][4];
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &p[strip][2 * c + i / 2][2 * (i % 2)];
        a[strip][i] = gpu::pack<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int d = 0; d < kOutputs / 2; ++d) {
      uint32_t x[4];
      gpu::ldmatrix<true>(x, chunk_at<kDim>(tile, c * 16 + lane % 16, first_chunk + 2 * d + lane / 16));
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
        gpu::mma<T>(sums[strip][2 * d], a[strip], x[0], x[1]);
        gpu::mma<T>(sums[strip][2 * d + 1], a[strip], x[2], x[3]);
      }
    }
  }
}

// Brings `sums`, each row times factor[strip][half], to memory, 16 bytes a lane, through the warp's own rows
// of `tile`, which no other warp may be reading: row(r) is where row r goes, null for nowhere; `dim` its
// elements.
template <int kDim, class T, int kStrips, int kOutputs, class Row>
GPU_FN void store_strips(T* tile, const float (&sums)[kStrips][kOutputs][4],
                         const float (&factor)[kStrips][2], int first_chunk, int dim, const Row& row) {
  constexpr int kMine = 16 * kStrips;
  const int lane = threadIdx.x % gpu::kWarp, first_row = threadIdx.x / gpu::kWarp * kMine;
  __syncwarp();  // its lanes have read the tile for the last time
#pragma unroll
  for (int i = 0; i < 2 * kStrips; ++i) {
    const int strip = i / 2, half = i % 2, r = first_row + strip * 16 + lane / 4 + 8 * half;
#pragma unroll
    for (int d = 0; d < kOutputs; ++d) {
      const float* pair = &sums[strip][d][2 * half];
      const uint32_t packed = gpu::pack<T>(pair[0] * factor[strip][half], pair[1] * factor[strip][half]);
      *reinterpret_cast<uint32_t*>(chunk_at<kDim>(tile, r, d) + lane % 4 * 2) = packed;
    }
  }
  __syncwarp();
  for (int i = lane; i < kMine * kOutputs; i += gpu::kWarp) {
    const int r = first_row + i / kOutputs, column = (first_chunk + i % kOutputs) * 8;
    T* to = row(r);
    if (to && column < dim) gpu::store(to + column, gpu::load<T, 8>(chunk_at<kDim>(tile, r, i % kOutputs)));
  }
}

}  // namespace pyllm::attention
