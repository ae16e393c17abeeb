// Scratch that a thread keeps between calls: fresh memory costs a page fault every 4 KB, which for a call of
// a few hundred microseconds is most of its time.
#pragma once

#include <array>
#include <utility>

#include "core/aligned.h"

namespace pyllm {
namespace {

// A thread keeps at most this many buffers, none larger than this many floats.
constexpr std::size_t kKeptBuffers = 4;
constexpr int64_t kKeptFloats = int64_t{1} << 22;  // 16 MB

// Uninitialized floats, on a cache line, for the lifetime of the object.
class Scratch {
 public:
  explicit Scratch(int64_t count) : buffer_(take(count)) {}
  ~Scratch() { keep(std::move(buffer_)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* get() const { return buffer_.memory.get(); }
  char* bytes() const { return reinterpret_cast<char*>(get()); }

 private:
  struct Buffer {
    AlignedArray<float> memory;
    int64_t count = 0;
  };
  using Kept = std::array<Buffer, kKeptBuffers>;

  static Kept& kept() {
    thread_local Kept buffers;
    return buffers;
  }

  // The smallest that is large enough.
  static Buffer take(int64_t count) {
    Buffer* best = nullptr;
    for (Buffer& b : kept()) {
      if (b.memory && b.count >= count && (!best || b.count < best->count)) best = &b;
    }
    return best ? std::exchange(*best, {}) : Buffer{make_aligned<float>(count), count};
  }

  // Takes the place of the smallest.
  static void keep(Buffer buffer) {
    if (buffer.count > kKeptFloats) return;
    Buffer* smallest = &kept()[0];
    for (Buffer& b : kept()) smallest = b.count < smallest->count ? &b : smallest;
    if (smallest->count < buffer.count) std::swap(*smallest, buffer);
  }

  Buffer buffer_;
};

}  // namespace
}  // namespace pyllm
