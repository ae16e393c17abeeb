// Products of tiles: four accumulators, tmm0 to tmm3, each the product of one of two left operands and one of
// two right ones. A product takes 16 cycles to start the next and 52 to end, so four chains suffice.
#include "bench/peaks.h"
#include "core/amx_tiles.h"

namespace pyllm::peaks {
namespace {

constexpr int64_t kProducts = 4;

template <class Products>
inline __attribute__((always_inline)) void run_products(int64_t rounds, uint8_t byte,
                                                        const Products& products) {
  alignas(64) uint8_t operand[kAmxRows * kAmxRowBytes];
  std::memset(operand, byte, sizeof operand);
  const TileScope tiles(full_tiles());
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  load_tile<4>(operand, kAmxRowBytes), load_tile<5>(operand, kAmxRowBytes);
  load_tile<6>(operand, kAmxRowBytes), load_tile<7>(operand, kAmxRowBytes);
  for (int64_t i = 0; i < rounds; ++i) products();
}

void dot_bf16(int64_t rounds) {
  run_products(rounds, 0x3f, [] {  // 0x3f3f is about 0.75
    dot_bf16_tiles<0, 4, 6>(), dot_bf16_tiles<1, 4, 7>();
    dot_bf16_tiles<2, 5, 6>(), dot_bf16_tiles<3, 5, 7>();
  });
}

void dot_int8(int64_t rounds) {
  run_products(rounds, 3, [] {
    asm volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n\ttdpbssd %tmm7, %tmm4, %tmm1\n\t"
        "tdpbssd %tmm6, %tmm5, %tmm2\n\ttdpbssd %tmm7, %tmm5, %tmm3");
  });
}

}  // namespace

extern const Loop amx_bf16_loop, amx_int8_loop;
const Loop amx_bf16_loop = {"amx_bf16", 2 * kProducts * kAmxElements * kAmxDepth, dot_bf16};
const Loop amx_int8_loop = {"amx_int8", 4 * kProducts * kAmxElements * kAmxDepth, dot_int8};

}  // namespace pyllm::peaks
