#include "formats/pack.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "formats/gguf_blocks.h"
#include "formats/packed_row.h"

namespace pyllm::packed {
namespace {

using namespace gguf;

void set_half(std::vector<uint8_t>& array, int64_t i, const Half& half) {
  std::memcpy(array.data() + 2 * i, half.bytes, 2);
}
void set_negated(std::vector<uint8_t>& array, int64_t i, const Half& half) {
  array[static_cast<size_t>(2 * i)] = half.bytes[0];
  array[static_cast<size_t>(2 * i + 1)] = static_cast<uint8_t>(half.bytes[1] ^ 0x80);
}

void read_nibbles(const uint8_t* __restrict qs, uint8_t* __restrict codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + 16] = qs[j] >> 4;
  }
}

// f(run, l) for the 8 runs of 32 codes of a block of 256. The 32 of a run are shifted alike: the inner loop
// becomes vectors.
template <class F>
void for_each_run(const F& f) {
  for (int run = 0; run < 8; ++run) {
    for (int l = 0; l < 32; ++l) f(run, l);
  }
}

// read(block, i, row): the i-th block of a row.

void read(const Q4_0& block, int64_t i, Row& row) {
  read_nibbles(block.qs, row.codes.data() + i * 32);
  set_half(row.scales, i, block.d);
}

void read(const Q4_1& block, int64_t i, Row& row) {
  read_nibbles(block.qs, row.codes.data() + i * 32);
  set_half(row.scales, i, block.d);
  set_negated(row.minimums, i, block.m);
}

void read(const Q5_0& block, int64_t i, Row& row) {
  const FiveBits five(block.qs, block.qh);
  std::copy_n(five.q, 32, row.codes.data() + i * 32);
  set_half(row.scales, i, block.d);
}

void read(const Q5_1& block, int64_t i, Row& row) {
  const FiveBits five(block.qs, block.qh);
  std::copy_n(five.q, 32, row.codes.data() + i * 32);
  set_half(row.scales, i, block.d);
  set_negated(row.minimums, i, block.m);
}

void read(const Q8_0& block, int64_t i, Row& row) {
  std::memcpy(row.codes.data() + i * 32, block.qs, 32);
  set_half(row.scales, i, block.d);
}

void read(const IQ4_NL& block, int64_t i, Row& row) {
  read_nibbles(block.qs, row.codes.data() + i * 32);
  set_half(row.scales, i, block.d);
}

void read(const MXFP4& block, int64_t i, Row& row) {
  read_nibbles(block.qs, row.codes.data() + i * 32);
  const bfloat16 scale = from_accumulator<bfloat16>(halved_scale(block.e));  // exact
  std::memcpy(row.scales.data() + 2 * i, &scale, 2);
}

void read(const IQ4_XS& block, int64_t i, Row& row) {
  set_half(row.scales, i, block.d);
  for (int group = 0; group < 8; ++group) {
    read_nibbles(block.qs + group * 16, row.codes.data() + i * 256 + group * 32);
    row.subscales[static_cast<size_t>(i * 8 + group)] = static_cast<uint8_t>(signed_scale(block, group));
  }
}

void read(const Q2_K& block, int64_t i, Row& row) {
  set_half(row.scales, i, block.d);
  set_half(row.minimums, i, block.dmin);
  for (int group = 0; group < 16; ++group) {
    row.subscales[static_cast<size_t>(i * 16 + group)] = block.scales[group] & 15;
    row.subminimums[static_cast<size_t>(i * 16 + group)] = block.scales[group] >> 4;
  }
  uint8_t* codes = row.codes.data() + i * 256;
  for_each_run([&](int run, int l) { codes[run * 32 + l] = block.qs[run / 4 * 32 + l] >> run % 4 * 2 & 3; });
}

void read(const Q3_K& block, int64_t i, Row& row) {
  set_half(row.scales, i, block.d);
  for (int group = 0; group < 16; ++group) {
    row.subscales[static_cast<size_t>(i * 16 + group)] = static_cast<uint8_t>(signed_scale(block, group));
  }
  uint8_t* codes = row.codes.data() + i * 256;
  for_each_run([&](int run, int l) {
    const int low = block.qs[run / 4 * 32 + l] >> run % 4 * 2 & 3;
    codes[run * 32 + l] = static_cast<uint8_t>(low | (block.hmask[l] >> run & 1) << 2);
  });
}

template <class Block>
void read_scale_pairs(const Block& block, int64_t i, Row& row) {
  set_half(row.scales, i, block.d);
  set_half(row.minimums, i, block.dmin);
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = scale_min(block.scales, group);
    row.subscales[static_cast<size_t>(i * 8 + group)] = static_cast<uint8_t>(scale);
    row.subminimums[static_cast<size_t>(i * 8 + group)] = static_cast<uint8_t>(min);
  }
}

void read(const Q4_K& block, int64_t i, Row& row) {
  read_scale_pairs(block, i, row);
  uint8_t* codes = row.codes.data() + i * 256;
  for_each_run([&](int run, int l) { codes[run * 32 + l] = block.qs[run / 2 * 32 + l] >> run % 2 * 4 & 15; });
}

void read(const Q5_K& block, int64_t i, Row& row) {
  read_scale_pairs(block, i, row);
  uint8_t* codes = row.codes.data() + i * 256;
  for_each_run([&](int run, int l) {
    const int low = block.qs[run / 2 * 32 + l] >> run % 2 * 4 & 15;
    codes[run * 32 + l] = static_cast<uint8_t>(low | (block.qh[l] >> run & 1) << 4);
  });
}

void read(const Q6_K& block, int64_t i, Row& row) {
  set_half(row.scales, i, block.d);
  std::memcpy(row.subscales.data() + i * 16, block.scales, 16);
  uint8_t* codes = row.codes.data() + i * 256;
  for_each_run([&](int run, int l) {
    const int low = block.ql[run / 4 * 64 + run % 2 * 32 + l] >> run % 4 / 2 * 4 & 15;
    codes[run * 32 + l] = static_cast<uint8_t>(low | (block.qh[run / 4 * 32 + l] >> run % 4 * 2 & 3) << 4);
  });
}

template <class Block>
void read_row(const uint8_t* blocks, int64_t inputs, Row& row) {
  const Block* block = reinterpret_cast<const Block*>(blocks);
  for (int64_t i = 0; i < inputs / kElements<Block>; ++i) read(block[i], i, row);
}

struct BlockFormat {
  const char* name;
  int64_t elements, bytes;
  void (*read_row)(const uint8_t* blocks, int64_t inputs, Row& row);
};

template <class Block>
constexpr BlockFormat blocks_of(const char* name) {
  return {name, kElements<Block>, sizeof(Block), read_row<Block>};
}

constexpr BlockFormat kBlocks[] = {
    blocks_of<Q4_0>("q4_0"),   blocks_of<Q4_1>("q4_1"),     blocks_of<Q5_0>("q5_0"),
    blocks_of<Q5_1>("q5_1"),   blocks_of<Q8_0>("q8_0"),     blocks_of<Q2_K>("q2_k"),
    blocks_of<Q3_K>("q3_k"),   blocks_of<Q4_K>("q4_k"),     blocks_of<Q5_K>("q5_k"),
    blocks_of<Q6_K>("q6_k"),   blocks_of<IQ4_NL>("iq4_nl"), blocks_of<IQ4_XS>("iq4_xs"),
    blocks_of<MXFP4>("mxfp4"),
};

const BlockFormat* blocks_of(const Format& format) {
  for (const BlockFormat& candidate : kBlocks) {
    if (std::strcmp(candidate.name, format.name) == 0) return &candidate;
  }
  return nullptr;
}

// read_row(output, row) for the outputs [first, last).
template <class F>
void pack_rows(const Format& format, const Layout& layout, int64_t first, int64_t last, uint8_t* data,
               const F& read_row) {
  parallel_for(first, last, kOutputs, [&](int64_t begin, int64_t end) {
    Row row(format, layout);
    for (int64_t output = begin; output < end; ++output) {
      read_row(output, row);
      store_row(format, layout, output, row, data);
    }
  });
}

}  // namespace

void pack_codes(const Format& format, const Layout& layout, const Codes& from, uint8_t* data) {
  pack_rows(format, layout, 0, layout.outputs, data, [&](int64_t output, Row& row) {
    const auto copy = [&](const uint8_t* array, std::vector<uint8_t>& part) {
      const int64_t bytes = static_cast<int64_t>(part.size());
      std::copy_n(array + output * bytes, bytes, part.data());
    };
    copy(from.codes, row.codes);
    copy(from.scales, row.scales);
    if (from.zeros) copy(from.zeros, row.subminimums);
  });
}

bool has_blocks(const Format& format) { return blocks_of(format) != nullptr; }

int64_t block_row_bytes(const Format& format, int64_t inputs) {
  const BlockFormat* blocks = blocks_of(format);
  return blocks && inputs % blocks->elements == 0 ? inputs / blocks->elements * blocks->bytes : 0;
}

void pack_blocks(const Format& format, const Layout& layout, const uint8_t* blocks, int64_t first,
                 int64_t count, uint8_t* data) {
  const int64_t row_bytes = block_row_bytes(format, layout.inputs);
  const auto read_row = blocks_of(format)->read_row;
  pack_rows(format, layout, first, first + count, data, [&](int64_t output, Row& row) {
    read_row(blocks + (output - first) * row_bytes, layout.inputs, row);
  });
}

void unpack(const Weight& weight, int64_t first, int64_t count, DType dtype, void* values) {
  const int64_t inputs = weight.layout.inputs;
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Row row(*weight.format, weight.layout);
    std::vector<float> staged(static_cast<size_t>(inputs));
    for (int64_t i = begin; i < end; ++i) {
      load_row(weight, first + i, row);
      row_values(*weight.format, weight.layout, row, staged.data());
      visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        T* target = static_cast<T*>(values) + i * inputs;
        for (int64_t k = 0; k < inputs; ++k) target[k] = from_accumulator<T>(staged[static_cast<size_t>(k)]);
      });
    }
  });
}

}  // namespace pyllm::packed
