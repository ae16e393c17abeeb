// What this machine can do at most: one kind of multiply-add on registers alone, and plain passes over
// memory. The roofs that benchmarks divide by (bench/roofline.py).
//
// An arithmetic loop runs twelve chains, each of which waits for its own last result only: two units with a
// latency of four or five cycles need ten. Accumulators and operands stay in registers, nothing is loaded or
// stored inside the loop. Threads run the same loop side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pyllm::peaks {

struct Loop {
  const char* unit;    // fma_fp32, vnni_int8, dot_bf16, amx_bf16 or amx_int8
  int64_t operations;  // of one round; a multiply-add is two
  void (*run)(int64_t rounds);
};

// Of one level: its multiply-add of floats, and a thread's passes over `count` floats.
struct Kernels {
  Loop fma;
  float (*read)(const float* data, int64_t count);
  void (*copy)(const float* from, float* to, int64_t count);  // `to` aligned to 64 bytes
};

// Loops whose unit the machine has and the active level allows.
std::vector<Loop> loops();

// Runs the loop of `unit` on `threads` threads, `rounds` each, and returns how many operations that was.
// Throws std::invalid_argument for a unit that is not among loops().
int64_t run(const std::string& unit, int64_t threads, int64_t rounds);

// Reads every float once, in one part per thread; returns a sum that keeps the reads alive.
float read(const float* data, int64_t count, int64_t threads);

void copy(const float* from, float* to, int64_t count, int64_t threads);

}  // namespace pyllm::peaks
