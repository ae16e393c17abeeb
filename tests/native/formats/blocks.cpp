// Any bytes through csrc/formats: what a hostile file can put into a tensor, of a hostile size. libFuzzer's
// entry point; native_tests and driver.cpp call it too.
//
//   byte 0      what is done; as many kinds as there are functions below
//   byte 1      the format
//   byte 2, 3   outputs and inputs
//   the rest    blocks, codes or floats, over and over until the size is filled
//
// Operands lie in heap blocks of their exact size, blocks at any alignment. Two readers of the same blocks
// must agree to the bit.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dequantize.h"
#include "formats/pack.h"
#include "formats/prefixed_strings.h"
#include "formats/quantize.h"

namespace {

using namespace pyllm;

struct Input {
  int format, outputs, inputs;
  const uint8_t* data;
  size_t size;

  // `count` bytes of the input in a heap block that ends with them.
  std::unique_ptr<uint8_t[]> bytes(int64_t count) const {
    auto copy = std::make_unique<uint8_t[]>(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) copy[static_cast<size_t>(i)] = data[static_cast<size_t>(i) % size];
    return copy;
  }
};

std::vector<std::string> names() {
  std::vector<std::string> all;
  const std::string list = packed::format_names();
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    all.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return all;
}

const packed::Format& format_of(const Input& input) {
  static const std::vector<std::string> all = names();
  return *packed::find_format(all[static_cast<size_t>(input.format) % all.size()]);
}

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

struct Packed {
  explicit Packed(const packed::Format& format, int64_t outputs, int64_t inputs)
      : weight{&format, packed::layout_of(format, outputs, inputs), nullptr},
        data(std::make_unique<uint8_t[]>(static_cast<size_t>(weight.layout.bytes))) {
    weight.data = data.get();
  }

  std::vector<float> values() const {
    const packed::Layout& layout = weight.layout;
    std::vector<float> all(static_cast<size_t>(layout.outputs * layout.inputs));
    packed::unpack(weight, 0, layout.outputs, DType::f32, all.data());
    return all;
  }

  packed::Weight weight;
  std::unique_ptr<uint8_t[]> data;
};

// Blocks of a file: packed and unpacked as dequantized, rows in two goes.
void pack_blocks(const Input& input) {
  const packed::Format& format = format_of(input);
  if (!packed::has_blocks(format)) return;
  const int64_t row_bytes = packed::block_row_bytes(format, input.inputs);
  if (row_bytes == 0) return;  // what the binding refuses
  const auto blocks = input.bytes(row_bytes * input.outputs);
  Packed packed(format, input.outputs, input.inputs);
  const int64_t half = input.outputs / 2;
  packed::pack_blocks(format, packed.weight.layout, blocks.get(), 0, half, packed.data.get());
  packed::pack_blocks(format, packed.weight.layout, blocks.get() + half * row_bytes, half,
                      input.outputs - half, packed.data.get());
  std::string upper = format.name;
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  const gguf::Format& plain = *gguf::find_format(upper);
  const int64_t count = row_bytes * input.outputs / plain.bytes;
  std::vector<float> expected(static_cast<size_t>(count * plain.elements));
  gguf::dequantize(plain, blocks.get(), count, DType::f32, expected.data());
  const std::vector<float> values = packed.values();
  for (size_t i = 0; i < values.size(); ++i) {
    if (!same(values[i], expected[i])) std::abort();
  }
}

// Codes, scales and zeros as GPTQ, AWQ and bitsandbytes keep them.
void pack_codes(const Input& input) {
  const packed::Format& format = format_of(input);
  if (format.nested || format.minimum == packed::Minimum::plain) return;
  Packed packed(format, input.outputs, input.inputs);
  const packed::Layout& layout = packed.weight.layout;
  const auto codes = input.bytes(layout.outputs * layout.inputs);
  const auto scales = input.bytes(layout.outputs * layout.groups * size_of(format.scale));
  const auto zeros = input.bytes(layout.outputs * layout.groups);
  const bool has_zeros = format.minimum == packed::Minimum::zeros;
  packed::pack_codes(format, layout, {codes.get(), scales.get(), has_zeros ? zeros.get() : nullptr},
                     packed.data.get());
  packed.values();
}

// Packed bytes of a state dict.
void read_packed(const Input& input) {
  Packed packed(format_of(input), input.outputs, input.inputs);
  packed.data = input.bytes(packed.weight.layout.bytes);
  packed.weight.data = packed.data.get();
  packed.values();
}

// Dequantizing to every dtype: the same values, rounded.
void dequantize(const Input& input) {
  static const char* const kNames[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1",   "Q8_0",   "Q2_K", "Q3_K",
                                       "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"};
  const gguf::Format& format =
      *gguf::find_format(kNames[static_cast<size_t>(input.format) % std::size(kNames)]);
  const auto blocks = input.bytes(input.outputs * format.bytes);
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    std::vector<uint8_t> values(static_cast<size_t>(input.outputs * format.elements * size_of(dtype)));
    gguf::dequantize(format, blocks.get(), input.outputs, dtype, values.data());
  }
}

// Any finite floats to blocks; those of ordinary size come back as numbers.
void quantize(const Input& input) {
  static const char* const kNames[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1",   "Q8_0",   "Q2_K", "Q3_K",
                                       "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"};
  const gguf::Quantizer& quantizer =
      *gguf::find_quantizer(kNames[static_cast<size_t>(input.format) % std::size(kNames)]);
  const int64_t count = 1 + input.outputs % 3, values = count * quantizer.elements;
  const auto bytes = input.bytes(values * 4);
  std::vector<float> x(static_cast<size_t>(values));
  std::memcpy(x.data(), bytes.get(), static_cast<size_t>(values) * 4);
  bool ordinary = true;
  for (float& v : x) {
    if (!std::isfinite(v)) v = 0.0f;
    ordinary = ordinary && std::fabs(v) < 1e4f;
  }
  auto blocks = std::make_unique<uint8_t[]>(static_cast<size_t>(count * quantizer.bytes));
  gguf::quantize(quantizer, x.data(), count, blocks.get());
  const gguf::Format& format = *gguf::find_format(quantizer.name);
  std::vector<float> back(x.size());
  gguf::dequantize(format, blocks.get(), count, DType::f32, back.data());
  for (float v : back) {
    if (ordinary && !std::isfinite(v)) std::abort();
  }
}

// Strings behind their lengths: all that are passed lie in the data, one behind the other.
void read_strings(const Input& input) {
  const auto data = input.bytes(static_cast<int64_t>(input.size));
  const char* const begin = reinterpret_cast<const char*>(data.get());
  gguf::PrefixedStrings strings({begin, input.size});
  const char* end = begin;
  size_t sum = 0;
  for (std::string_view text; (text = strings.next(static_cast<uint64_t>(input.inputs))).data();) {
    if (text.data() != end + 8 || text.size() > static_cast<size_t>(input.inputs)) std::abort();
    for (char c : text) sum += static_cast<uint8_t>(c);
    end = text.data() + text.size();
  }
  if (strings.position() != static_cast<size_t>(end - begin) || sum > 255 * input.size) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 5) return 0;
  constexpr void (*kActions[])(const Input&) = {pack_blocks, pack_codes, read_packed,
                                                dequantize,  quantize,   read_strings};
  // Inputs beside multiples of 256, and any.
  const int inputs = data[3] % 2 ? data[3] / 2 % 5 * 256 : data[3] * 2;
  kActions[data[0] % std::size(kActions)]({data[1], data[2] % 70, inputs, data + 4, size - 4});
  return 0;
}
