// Block-quantized tensors to plain ones.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace pyllm::gguf {

struct Format {
  const char* name;
  int64_t elements, bytes;  // of one block
  void (*unpack)(const uint8_t* blocks, int64_t count, float* out);
};

// By GGUF's name, "Q4_K" for example; null if there is no such format here.
const Format* find_format(const std::string& name);

// Unpacks `count` blocks (format.bytes each, any alignment) into count * format.elements values of `dtype`,
// computed in float and rounded once.
void dequantize(const Format& format, const uint8_t* blocks, int64_t count, DType dtype, void* out);

}  // namespace pyllm::gguf
