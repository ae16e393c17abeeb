// An array that does not change any more, shared by all who hold it: made in memory, or a part of a mapped
// file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "huge_array.h"

namespace pyllm::tokenizers {

template <typename T>
class FrozenArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  FrozenArray() = default;
  // `owner` keeps the memory alive.
  FrozenArray(std::span<const T> values, std::shared_ptr<const void> owner)
      : values_(values), owner_(std::move(owner)) {}
  explicit FrozenArray(std::vector<T> values) : FrozenArray(take(std::move(values))) {}
  explicit FrozenArray(HugeArray<T> values) : FrozenArray(take(std::move(values))) {}
  explicit FrozenArray(std::string values)
    requires std::is_same_v<T, char>
      : FrozenArray(take(std::move(values))) {}

  size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  const T* data() const { return values_.data(); }
  const T* begin() const { return values_.data(); }
  const T* end() const { return values_.data() + values_.size(); }
  const T& operator[](size_t i) const { return values_.data()[i]; }

 private:
  template <typename Container>
  static FrozenArray take(Container values) {
    const auto owner = std::make_shared<const Container>(std::move(values));
    const T* data = owner->size() == 0 ? nullptr : &(*owner)[0];
    return {std::span<const T>(data, owner->size()), owner};
  }

  std::span<const T> values_;
  std::shared_ptr<const void> owner_;
};

}  // namespace pyllm::tokenizers
