// int8.h without VNNI.
#include "ops/quantized_linear/int8_loops.h"

namespace pyllm::quantized_linear {

extern const Int8Forward PYLLM_LEVEL_TABLE(int8_forward);
const Int8Forward PYLLM_LEVEL_TABLE(int8_forward) = run_int8<PairDots>;

}  // namespace pyllm::quantized_linear
