#include "formats/packed_weight.h"
#include "harness.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace pyllm::test {
namespace {

// Bytes of any kind, or a few of them over and over: all-zero scales, equal weights.
void run_random(Dice& dice) {
  std::vector<uint8_t> input(static_cast<size_t>(dice.number(5, dice.coin() ? 3000 : 12)));
  for (uint8_t& byte : input) byte = static_cast<uint8_t>(dice.number(0, 255));
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

void test_formats() {
  Dice dice(11);
  for (int i = 0; i < 600; ++i) run_random(dice);
}

void fuzz_formats(Dice& dice) { run_random(dice); }

}  // namespace pyllm::test
