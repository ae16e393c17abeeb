// One row against a right operand that is contiguous along the columns (grad x of one token): memory sets the
// speed, so that right is read once, row after row as it lies, and nothing is packed.
//
//   for parts of the columns x blocks of depth     parallel
//     for k of the block                           all chains of the block are open, in the first-level cache
//       chain of k += left[k] * right[k, part]
//     partial sums of the block = its chains, ascending
//   out = partial sums, ascending, + bias, rounded once
#pragma once

#include "ops/linear/finish.h"
#include "ops/linear/many_rows.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kPartColumns = 512;  // 2 KB of a row at a time, 32 KB of chains
constexpr int64_t kPartStep = 64;      // whole pairs of cache lines
constexpr int64_t kStreamTasks = 8;

// `width` columns from `column` on of one block of depth: sums[n] = its chains, added.
template <class T>
void stream_block(const Product& p, const float* left, const Chains& chains, int64_t block, int64_t column,
                  int64_t width, float* open, float* sums) {
  const int64_t first = block * chains.depth(), rest = smaller(p.depth - first, chains.depth());
  const int64_t stride = ceil_div(width, kLanes) * kLanes;
  for (int64_t i = 0; i < chains.count * stride; i += kLanes) store(open + i, zero());
  for (int64_t k = 0; k < rest; ++k) {
    const T* from = at<T>(p.right, column, first + k);
    float* chain = open + chains.chain_of(k) * stride;
    const Vec x = set1(left[first + k]);
    for_each_vec(width, [&](int64_t n, int64_t lanes) {
      __builtin_prefetch(from + n + kAhead * p.right.stride_k);
      store(chain + n, fma(x, load_lanes(from + n, lanes), load(chain + n)));
    });
  }
  for (int64_t n = 0; n < stride; n += kLanes) {
    Vec sum = load(open + n);
    for (int64_t j = 1; j < chains.count; ++j) sum = sum + load(open + j * stride + n);
    store(sums + n, sum);
  }
}

template <class T>
void product_one_row(const Product& p, const Chains& chains) {
  const int64_t parts = larger(ceil_div(p.columns, kPartColumns), ceil_div(kStreamTasks, chains.blocks));
  const int64_t part = ceil_div(ceil_div(p.columns, parts), kPartStep) * kPartStep;
  const int64_t used = ceil_div(p.columns, part), stride = used * part;
  const Scratch memory(p.depth + chains.blocks * stride);
  float *left = memory.get(), *sums = left + p.depth;
  for (int64_t k = 0; k < p.depth; ++k) left[k] = to_accumulator(*at<T>(p.left, 0, k));
  for_each_task(used * chains.blocks, chains.count * part, [&](int64_t task, float* open) {
    const int64_t block = task / used, column = task % used * part;
    stream_block<T>(p, left, chains, block, column, smaller(p.columns - column, part), open,
                    sums + block * stride + column);
  });
  for_each_vec(p.columns, [&](int64_t n, int64_t lanes) {
    Vec sum = load(sums + n);
    for (int64_t b = 1; b < chains.blocks; ++b) sum = sum + load(sums + b * stride + n);
    finish<T>(p, 0, n, sum, lanes);
  });
}

}  // namespace
}  // namespace pyllm::linear
