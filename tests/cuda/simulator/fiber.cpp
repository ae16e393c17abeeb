#include "simulator/fiber.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#ifdef SIMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
}
#define IF_TSAN(...) __VA_ARGS__
#else
#define IF_TSAN(...)
#endif

#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#define IF_ASAN(...) __VA_ARGS__
#else
#define IF_ASAN(...)
#endif

// Saves the registers that a call must preserve on the running stack, its top in *save; loads those under
// `load`.
extern "C" void pyllm_simulator_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
  .text
  .globl pyllm_simulator_switch
  .type pyllm_simulator_switch, @function
pyllm_simulator_switch:
  endbr64
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
constexpr int kFrameWords = 8, kReturnWord = 6;  // a ninth would misalign the stack of the entry
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl pyllm_simulator_switch
  .type pyllm_simulator_switch, %function
pyllm_simulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
constexpr int kFrameWords = 20, kReturnWord = 11;
#else
#error "the simulator has no fiber switch for this processor"
#endif

namespace pyllm::simulator {
namespace {
constexpr size_t kStack = 256 << 10;
}

Fiber::~Fiber() {
  if (!stack_) return;
  munmap(stack_, kStack);
  IF_TSAN(__tsan_destroy_fiber(thread_);)
}

void Fiber::adopt() { IF_TSAN(thread_ = __tsan_get_current_fiber();) }

void Fiber::start(void (*entry)()) {
  if (!stack_) {
    void* memory =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = static_cast<char*>(memory);
    bottom_ = stack_;
    size_ = kStack;
    IF_TSAN(thread_ = __tsan_create_fiber(0);)
  }
  void** frame = reinterpret_cast<void**>(stack_ + kStack) - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof(void*));
  frame[kReturnWord] = reinterpret_cast<void*>(entry);
  top_ = frame;
}

namespace {
Fiber* g_left = nullptr;  // the fiber of the last switch
}

void Fiber::switch_to(Fiber& next, [[maybe_unused]] bool last) {
  g_left = this;
  IF_TSAN(__tsan_switch_to_fiber(next.thread_, /*no synchronization=*/1);)
  IF_ASAN(__sanitizer_start_switch_fiber(last ? nullptr : &frames_, next.bottom_, next.size_);)
  pyllm_simulator_switch(&top_, next.top_);
  IF_ASAN(__sanitizer_finish_switch_fiber(frames_, &g_left->bottom_, &g_left->size_);)
}

void Fiber::entered() { IF_ASAN(__sanitizer_finish_switch_fiber(nullptr, &g_left->bottom_, &g_left->size_);) }

}  // namespace pyllm::simulator
