// Packed weights for the native tests.
#pragma once

#include "formats/packed_weight.h"
#include "harness.h"

namespace pyllm::test {

// A weight in a heap block of its exact size: any codes, scales of about 2^-6.
class RandomWeight {
 public:
  RandomWeight(const packed::Format& format, int64_t outputs, int64_t inputs)
      : layout_(packed::layout_of(format, outputs, inputs)),
        data_(static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(layout_.bytes)))),
        format_(format) {
    std::mt19937 engine(7);
    for (int64_t i = 0; i < layout_.bytes; ++i) data_[i] = static_cast<uint8_t>(engine());
    if (format.values == packed::Values::float8) {
      for (int64_t i = 0; i < layout_.scales; ++i) data_[i] &= 0xbf;  // no NaN
    }
    fill(layout_.scales, layout_.subscales);
    if (format.minimum == packed::Minimum::plain || format.minimum == packed::Minimum::nested) {
      fill(layout_.minimums, layout_.subminimums);
    }
  }
  ~RandomWeight() { std::free(data_); }
  RandomWeight(const RandomWeight&) = delete;
  RandomWeight& operator=(const RandomWeight&) = delete;

  packed::Weight get() const { return {&format_, layout_, data_}; }

 private:
  void fill(int64_t begin, int64_t end) {
    visit(format_.scale, [&](auto zero) {
      using T = decltype(zero);
      T* numbers = reinterpret_cast<T*>(data_ + begin);
      const int64_t count = (end - begin) / static_cast<int64_t>(sizeof(T));
      for (int64_t i = 0; i < count; ++i)
        numbers[i] = from_double<T>((1.0 + static_cast<double>(i % 7)) / 256);
    });
  }

  packed::Layout layout_;
  uint8_t* data_;
  const packed::Format& format_;
};

}  // namespace pyllm::test
