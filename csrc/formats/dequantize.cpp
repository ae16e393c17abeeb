#include "formats/dequantize.h"

#include <algorithm>

#include "core/parallel.h"
#include "formats/gguf_blocks.h"

namespace pyllm::gguf {
namespace {

template <class Block>
void unpack_blocks(const uint8_t* blocks, int64_t count, float* out) {
  const Block* block = reinterpret_cast<const Block*>(blocks);
  for (int64_t i = 0; i < count; ++i) unpack(block[i], out + i * kElements<Block>);
}

template <class Block>
constexpr Format format(const char* name) {
  return {name, kElements<Block>, sizeof(Block), unpack_blocks<Block>};
}

constexpr Format kFormats[] = {
    format<Q4_0>("Q4_0"),   format<Q4_1>("Q4_1"), format<Q5_0>("Q5_0"),     format<Q5_1>("Q5_1"),
    format<Q8_0>("Q8_0"),   format<Q2_K>("Q2_K"), format<Q3_K>("Q3_K"),     format<Q4_K>("Q4_K"),
    format<Q5_K>("Q5_K"),   format<Q6_K>("Q6_K"), format<IQ4_NL>("IQ4_NL"), format<IQ4_XS>("IQ4_XS"),
    format<MXFP4>("MXFP4"),
};

// Values unpacked before they are rounded: 4 KB of floats stay in the first-level cache.
constexpr int64_t kStaged = 1024;

template <class T>
void dequantize_as(const Format& format, const uint8_t* blocks, int64_t count, T* out) {
  const int64_t step = kStaged / format.elements;
  // A task of 64 steps is about 100 us of work.
  parallel_for(0, (count + step - 1) / step, 64, [&](int64_t begin, int64_t end) {
    float staged[kStaged];
    const int64_t last = std::min(end * step, count);
    for (int64_t block = begin * step; block < last; block += step) {
      const int64_t taken = std::min(step, last - block), values = taken * format.elements;
      format.unpack(blocks + block * format.bytes, taken, staged);
      T* __restrict target = out + block * format.elements;
      for (int64_t i = 0; i < values; ++i) target[i] = from_accumulator<T>(staged[i]);
    }
  });
}

}  // namespace

const Format* find_format(const std::string& name) {
  for (const Format& candidate : kFormats) {
    if (name == candidate.name) return &candidate;
  }
  return nullptr;
}

void dequantize(const Format& format, const uint8_t* blocks, int64_t count, DType dtype, void* out) {
  visit(dtype, [&](auto zero) {
    using T = decltype(zero);
    dequantize_as(format, blocks, count, static_cast<T*>(out));
  });
}

}  // namespace pyllm::gguf
