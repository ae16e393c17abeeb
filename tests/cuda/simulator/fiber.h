// Fibers: stacks that one OS thread switches between by hand, one for each CUDA thread of a block. The
// address and thread sanitizers are told of every switch.
#pragma once

#include <cstddef>

namespace pyllm::simulator {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes this the fiber of the stack that calls.
  void adopt();
  // The next switch to this fiber calls `entry`, which must end in a switch and never return.
  void start(void (*entry)());
  // Leaves this fiber, which is the running one; `last` if it will never run again.
  void switch_to(Fiber& next, bool last = false);
  // To be called first in `entry`.
  void entered();

 private:
  void* top_ = nullptr;     // of a suspended fiber's registers
  char* stack_ = nullptr;   // lowest address; null for an adopted stack
  void* thread_ = nullptr;  // the thread sanitizer's
  void* frames_ = nullptr;  // the address sanitizer's
  const void* bottom_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pyllm::simulator
