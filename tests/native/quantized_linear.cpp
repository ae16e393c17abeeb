#include "ops/quantized_linear/quantized_linear.h"

#include <sstream>

#include "formats/pack.h"
#include "harness.h"
#include "ops/quantized_linear/int8.h"
#include "random_weight.h"

namespace pyllm::test {
namespace {

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  std::istringstream list(packed::format_names());
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}

// Forward with a bias, gradient of x, and the forward with bytes where the format has it.
std::vector<Values> products(const packed::Weight& weight, DType dtype, int64_t rows) {
  const int64_t outputs = weight.layout.outputs, inputs = weight.layout.inputs;
  Values x = Values::random(dtype, rows * inputs, 1), bias = Values::random(dtype, outputs, 2);
  Values grad_y = Values::random(dtype, rows * outputs, 3);
  std::vector<Values> out;
  for (int64_t size : {rows * outputs, rows * inputs}) out.emplace_back(dtype, size);
  quantized_linear::Product p = {.dtype = dtype,
                                 .rows = rows,
                                 .left = x.data(),
                                 .stride = inputs,
                                 .weight = weight,
                                 .bias = bias.data(),
                                 .out = out[0].data()};
  quantized_linear::forward(p);
  if (quantized_linear::has_int8(*weight.format)) {
    out.emplace_back(dtype, rows * outputs);
    p.out = out[2].data();
    quantized_linear::forward_int8(p);
  }
  quantized_linear::grad_x({.dtype = dtype,
                            .rows = rows,
                            .left = grad_y.data(),
                            .stride = outputs,
                            .weight = weight,
                            .bias = nullptr,
                            .out = out[1].data()});
  return out;
}

void check(const std::string& name, int64_t rows, int64_t outputs, int64_t inputs) {
  const RandomWeight weight(*packed::find_format(name), outputs, inputs);
  check_levels_and_threads([&](DType dtype) { return products(weight.get(), dtype, rows); });
}

// Blocks of any bits, as a hostile file has them: packing and unpacking read and write only what is theirs.
void check_blocks(const std::string& name, int64_t outputs, int64_t inputs) {
  const packed::Format& format = *packed::find_format(name);
  if (!packed::has_blocks(format)) return;
  const packed::Layout layout = packed::layout_of(format, outputs, inputs);
  std::vector<uint8_t> blocks(static_cast<size_t>(outputs * packed::block_row_bytes(format, inputs)));
  std::mt19937 engine(5);
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(engine());
  std::vector<uint8_t> data(static_cast<size_t>(layout.bytes));
  packed::pack_blocks(format, layout, blocks.data(), 0, outputs, data.data());
  Values values(DType::f32, outputs * inputs);
  packed::unpack({&format, layout, data.data()}, 0, outputs, DType::f32, values.data());
}

}  // namespace

void test_quantized_linear() {
  for (const std::string& name : format_names()) {
    check(name, 1, 17, 300);
    check(name, 5, 40, 33);
    check_blocks(name, 19, 512);
  }
}

void fuzz_quantized_linear(Dice& dice) {
  const std::vector<std::string> names = format_names();
  const std::string& name =
      names[static_cast<size_t>(dice.number(0, static_cast<int64_t>(names.size()) - 1))];
  check(name, dice.size(40), dice.size(100), dice.size(600));
}

}  // namespace pyllm::test
