// Our own file form: named arrays that are used where they lie, so that processes which map the file share
// its pages.
//
//   header      "PYLLMTOK" | version | number of sections | size of the file | checksum of the directory
//   directory   for each section: name (32 bytes) | offset | bytes | checksum
//   sections    each at a multiple of 64; all numbers little endian
//
// Checksums find damage. They do not keep out forgery: whoever takes a section checks what he reads out of
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "frozen_array.h"

namespace pyllm::tokenizers {

inline constexpr std::string_view kSectionsMagic = "PYLLMTOK";

class SectionWriter {
 public:
  template <typename T>
  void array(const std::string& name, std::span<const T> values) {
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>,
                  "padding would carry chance bytes into the file");
    text(name, {reinterpret_cast<const char*>(values.data()), values.size_bytes()});
  }
  template <typename T>
  void array(const std::string& name, const FrozenArray<T>& values) {
    array(name, std::span<const T>(values.data(), values.size()));
  }
  // A section of this name must not be there yet.
  void text(const std::string& name, std::string_view bytes);

  // The whole file.
  std::string finish() const;

 private:
  std::map<std::string, std::string> sections_;
};

class SectionReader {
 public:
  // `owner` keeps the bytes, which start at a multiple of 8. Throws std::invalid_argument for a file that is
  // damaged, cut, or of another version.
  SectionReader(std::string_view file, std::shared_ptr<const void> owner);

  bool has(const std::string& name) const { return sections_.contains(name); }

  // Throws std::invalid_argument if there is no such section.
  std::string_view text(const std::string& name) const;

  // Throws also if the size is not that of whole values.
  template <typename T>
  FrozenArray<T> array(const std::string& name) const {
    const std::string_view bytes = text(name);
    if (bytes.size() % sizeof(T) != 0) fail(name, "expected whole values");
    return {{reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)}, owner_};
  }

  [[noreturn]] static void fail(const std::string& name, const char* what);

 private:
  std::shared_ptr<const void> owner_;
  std::map<std::string, std::string_view> sections_;
};

// A file in memory, mapped where the system can; `owner` keeps it.
struct FileBytes {
  std::string_view bytes;
  std::shared_ptr<const void> owner;
};

// Throws std::invalid_argument if the file cannot be read.
FileBytes map_file(const std::string& path);

}  // namespace pyllm::tokenizers
