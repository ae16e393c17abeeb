// What a launcher of CUDA kernels (ops/*/cuda.cu) gets from whoever calls it: a stream, and memory on its
// device. Neither torch nor CUDA is known here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pyllm::gpu {

class Context {
 public:
  virtual ~Context() = default;
  // A cudaStream_t.
  virtual void* stream() const = 0;
  // At least `bytes`, aligned to 16, until all that is now on the stream has run.
  virtual void* allocate(size_t bytes) = 0;
};

// Of the calling thread; set for the duration of an op.
inline thread_local Context* g_context = nullptr;

class ContextScope {
 public:
  explicit ContextScope(Context& context) : previous_(g_context) { g_context = &context; }
  ~ContextScope() { g_context = previous_; }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  Context* previous_;
};

// `count` elements of T, uninitialized.
template <class T>
T* allocate(int64_t count) {
  return static_cast<T*>(g_context->allocate(static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace pyllm::gpu
