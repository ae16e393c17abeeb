// Strings as GGUF files hold them, one after the other:
//
//   | length: 8 bytes, little endian | UTF-8 | length ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace pyllm::gguf {

class PrefixedStrings {
 public:
  explicit PrefixedStrings(std::string_view data) : data_(data) {}

  // Bytes that are read.
  size_t position() const { return position_; }

  // The next string; one of null where the rest of the data holds none that is whole and within `limit`.
  std::string_view next(uint64_t limit) {
    const std::string_view rest = data_.substr(position_);
    uint64_t length;
    if (rest.size() < sizeof length) return {};
    std::memcpy(&length, rest.data(), sizeof length);
    if (length > limit || length > rest.size() - sizeof length) return {};
    position_ += sizeof length + length;
    return rest.substr(sizeof length, length);
  }

 private:
  std::string_view data_;
  size_t position_ = 0;
};

}  // namespace pyllm::gguf
