// Codes of four bits: integers, and what is looked up in a table.
#include "ops/quantized_linear/codec_kernels.h"

namespace pyllm::quantized_linear {

PYLLM_CODEC(codec_nibbles, Nibbles);
PYLLM_CODEC(codec_nibbles_of_bytes, NibblesOfBytes);
PYLLM_CODEC(codec_nibbles_of_floats, NibblesOfFloats);

}  // namespace pyllm::quantized_linear
