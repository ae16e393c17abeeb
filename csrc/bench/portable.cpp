// Multiply-adds of float vectors, and passes over memory, at the width of the level.
//
// A pass walks several streams a page or more apart, a cache line of each in turn: one stream leaves the
// prefetchers' queues half empty. Copies are written around the caches, as nobody reads them again.
#include "bench/peaks.h"
#include "bench/register_loop.h"
#include "core/levels.h"
#include "core/vec.h"

namespace pyllm::peaks {
namespace {

constexpr int64_t kStreams = 4;
constexpr int64_t kLineFloats = 16;

void multiply_add(int64_t rounds) {
  const Vec half = set1(0.5f), one = set1(1.0f);
  run_chains(rounds, one, [&](Vec& x) { x = fma(x, half, one); });
}

// line(stream, offset) for every whole cache line of `count` floats; returns how many floats they cover.
template <class Line>
inline __attribute__((always_inline)) int64_t for_each_line(int64_t count, const Line& line) {
  const int64_t stream = count / (kStreams * kLineFloats) * kLineFloats;
  for (int64_t i = 0; i < stream; i += kLineFloats) {
    for (int64_t s = 0; s < kStreams; ++s) line(s, s * stream + i);
  }
  return kStreams * stream;
}

float read_floats(const float* data, int64_t count) {
  Vec sums[kStreams];  // a chain of additions for each
  for (Vec& sum : sums) sum = zero();
  int64_t done = for_each_line(count, [&](int64_t s, int64_t offset) {
    Vec line = load(data + offset);
    for (int64_t i = kLanes; i < kLineFloats; i += kLanes) line = line + load(data + offset + i);
    sums[s] = sums[s] + line;
  });
  float total = 0, lanes[kLanes];
  for (const Vec& sum : sums) {
    store(lanes, sum);
    for (float lane : lanes) total += lane;
  }
  for (; done < count; ++done) total += data[done];
  return total;
}

inline void write_around_caches(float* to, Vec value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, value);
#else
  store(to, value);
#endif
}

void copy_floats(const float* from, float* to, int64_t count) {
  int64_t done = for_each_line(count, [&](int64_t, int64_t offset) {
    for (int64_t i = 0; i < kLineFloats; i += kLanes) {
      write_around_caches(to + offset + i, load(from + offset + i));
    }
  });
  for (; done < count; ++done) to[done] = from[done];
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {
    {"fma_fp32", int64_t{2} * kChains * kLanes, multiply_add}, read_floats, copy_floats};

}  // namespace pyllm::peaks
