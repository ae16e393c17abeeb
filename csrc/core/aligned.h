// Scratch memory on cache-line borders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pyllm {
namespace {

constexpr std::size_t kCacheLine = 64;

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

// Uninitialized. Throws std::bad_alloc.
template <class T>
[[maybe_unused]] AlignedArray<T> make_aligned(int64_t count) {
  const std::size_t bytes =
      (static_cast<std::size_t>(count) * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
  void* memory = std::aligned_alloc(kCacheLine, bytes ? bytes : kCacheLine);
  if (!memory) throw std::bad_alloc();
  return AlignedArray<T>(static_cast<T*>(memory));
}

}  // namespace
}  // namespace pyllm
