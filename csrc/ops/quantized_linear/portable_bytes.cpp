// Codes of eight bits: integers and e4m3.
#include "ops/quantized_linear/codec_kernels.h"

namespace pyllm::quantized_linear {

PYLLM_CODEC(codec_bytes, Bytes);
PYLLM_CODEC(codec_float8, Float8);

}  // namespace pyllm::quantized_linear
