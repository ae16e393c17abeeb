// Scratch memory that a thread keeps from call to call.
#pragma once

#include "core/aligned.h"

namespace pyllm {
namespace {

constexpr int64_t kMostKeptBytes = 16 << 20;

// The calling thread's block of one use (a tag type): at least `bytes` long, on a cache-line border, contents
// undefined, valid until the thread's next block of that use. Larger ones than kMostKeptBytes are not kept. A
// fresh block of this size would come from the system page by page at each call, which costs as much as a
// small product. Throws std::bad_alloc.
template <class Use>
class KeptBlock {
 public:
  explicit KeptBlock(int64_t bytes) {
    thread_local AlignedArray<char> kept;
    thread_local int64_t kept_bytes = 0;
    if (bytes > kMostKeptBytes) {
      large_ = make_aligned<char>(bytes);
      data_ = large_.get();
      return;
    }
    if (kept_bytes < bytes) {
      kept_bytes = 0;
      kept.reset();
      kept = make_aligned<char>(bytes);
      kept_bytes = bytes;
    }
    data_ = kept.get();
  }

  char* get() const { return data_; }

 private:
  AlignedArray<char> large_;
  char* data_;
};

}  // namespace
}  // namespace pyllm
