// Plain weights to GGUF blocks, rounded to the nearest.
#pragma once

#include <cstdint>
#include <string>

namespace pyllm::gguf {

struct Quantizer {
  const char* name;
  int64_t elements, bytes;  // of one block
  void (*pack)(const float* x, int64_t count, uint8_t* blocks);
};

// By GGUF's name, "Q4_K" for example; null if there is no such format here.
const Quantizer* find_quantizer(const std::string& name);

// x: count * elements finite values; blocks: count * bytes. Blocks do not influence one another.
void quantize(const Quantizer& quantizer, const float* x, int64_t count, uint8_t* blocks);

}  // namespace pyllm::gguf
