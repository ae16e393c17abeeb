// Codes of two, three, five and six bits.
#include "ops/quantized_linear/codec_kernels.h"

namespace pyllm::quantized_linear {

PYLLM_CODEC(codec_bits2, SplitBits<2>);
PYLLM_CODEC(codec_bits3, SplitBits<3>);
PYLLM_CODEC(codec_bits5, SplitBits<5>);
PYLLM_CODEC(codec_bits6, SplitBits<6>);

}  // namespace pyllm::quantized_linear
