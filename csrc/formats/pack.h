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

// `data` is layout.bytes zeros to begin with: outputs that fill up the last panel stay zero.

// Formats without subscales and stored minimums.
void pack_codes(const Format& format, const Layout& layout, const Codes& from, uint8_t* data);

// True if GGUF has the format.
bool has_blocks(const Format& format);
// Bytes of one row of blocks, 0 if `inputs` is not a whole number of them.
int64_t block_row_bytes(const Format& format, int64_t inputs);
// Rows [first, first + count) of a GGUF tensor of that format, whose blocks begin at `blocks`, any alignment.
void pack_blocks(const Format& format, const Layout& layout, const uint8_t* blocks, int64_t first,
                 int64_t count, uint8_t* data);

// Rows [first, first + count) as (count, inputs) values, computed in float as the format defines them and
// rounded once.
void unpack(const Weight& weight, int64_t first, int64_t count, DType dtype, void* values);

}  // namespace pyllm::packed
