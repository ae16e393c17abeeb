// A fixed array, of zeros unless said otherwise, for tables of megabytes that are read at random: on Linux it
// asks for large pages before anything is touched, which saves most page faults and misses of the address
// cache.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pyllm::tokenizers {

template <typename T>
class HugeArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HugeArray() = default;
  explicit HugeArray(size_t size) : HugeArray(uninitialized(size)) {
    std::uninitialized_fill_n(data_.get(), size, T{});
  }

  // Memory that is written before it is read: only what is used is touched.
  static HugeArray uninitialized(size_t size) {
    HugeArray array;
    array.size_ = size;
    constexpr size_t kLargePage = 2 << 20, kLine = 64;
    const size_t bytes = size * sizeof(T);
    const size_t unit = bytes >= kLargePage / 2 ? kLargePage : kLine;
    const size_t rounded = (bytes + unit - 1) / unit * unit;
    void* memory = rounded == 0 ? nullptr : std::aligned_alloc(unit, rounded);
    if (memory == nullptr && rounded != 0) throw std::bad_alloc();
    array.data_.reset(static_cast<T*>(memory));
#if defined(__linux__)
    if (unit == kLargePage) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
    return array;
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace pyllm::tokenizers
