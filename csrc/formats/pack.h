// Weights into the packed layout (packed_weight.h) and out of it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "formats/packed_weight.h"

namespace pyllm::packed {

// Rows as they lie in memory: codes (outputs, inputs), one byte each; scales (outputs, groups) of the
// format's scale type; zeros (outputs, groups), null where the format has none.
struct Codes {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* zeros;
};

// Formats without subscales and stored minimums. `data`: layout.bytes bytes.
void pack_codes(const Format& format, const Layout& layout, const Codes& from, uint8_t* data);

// True if GGUF has the format.
bool has_blocks(const Format& format);
// Bytes of one row of blocks, 0 if `inputs` is not a whole number of them.
int64_t block_row_bytes(const Format& format, int64_t inputs);
// A GGUF tensor of that format: layout.outputs rows of blocks, any alignment.
void pack_blocks(const Format& format, const Layout& layout, const uint8_t* blocks, uint8_t* data);

// Rows [first, first + count) as (count, inputs) values, computed in float as the format defines them and
// rounded once.
void unpack(const Weight& weight, int64_t first, int64_t count, DType dtype, void* values);

}  // namespace pyllm::packed
