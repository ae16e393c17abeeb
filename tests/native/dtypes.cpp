// The 16-bit formats against the compiler's own arithmetic, over every value.
#include <bit>

#include "harness.h"

namespace pyllm::test {
namespace {

// The neighbours of every 16-bit value, and the points half-way, must round as their distances say.
template <class T>
void check_format() {
  for (uint32_t bits = 0; bits < 0x8000; ++bits) {
    for (uint32_t sign : {0u, 0x8000u}) {
      const T x{static_cast<uint16_t>(bits | sign)};
      const float value = to_accumulator(x);
      const T back = from_accumulator<T>(value);
      if (value != value) {
        const float again = to_accumulator(back);
        CHECK(again != again);
        continue;
      }
      CHECK(back.bits == x.bits);
      const T next{static_cast<uint16_t>(x.bits + 1)};
      const float above = to_accumulator(next);
      if (!std::isfinite(value) || !std::isfinite(above)) continue;
      const float middle = (value + above) / 2;
      if ((static_cast<double>(value) + above) / 2 != middle) continue;  // below float's own resolution
      CHECK(from_accumulator<T>(middle).bits == (x.bits & 1 ? next.bits : x.bits));
      CHECK(from_accumulator<T>(std::nextafter(middle, value)).bits == x.bits);
      CHECK(from_accumulator<T>(std::nextafter(middle, above)).bits == next.bits);
    }
  }
  CHECK(std::isinf(to_accumulator(from_accumulator<T>(INFINITY))));
}

}  // namespace

void test_dtypes() {
  check_format<bfloat16>();
  check_format<float16>();
  CHECK(to_accumulator(from_accumulator<float16>(65519.0f)) == 65504.0f);
  CHECK(std::isinf(to_accumulator(from_accumulator<float16>(65520.0f))));
}

}  // namespace pyllm::test
