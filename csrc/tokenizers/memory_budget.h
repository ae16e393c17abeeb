// How many bytes a training may hold, counted before they are asked for, so that the answer to too much text
// is an exception and not a machine that swaps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace pyllm::tokenizers {

// Becomes MemoryError in Python.
class BudgetExceeded : public std::bad_alloc {
 public:
  explicit BudgetExceeded(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// Threads share one.
class MemoryBudget {
 public:
  explicit MemoryBudget(size_t limit = SIZE_MAX) : limit_(limit) {}

  // Throws BudgetExceeded, whose message says what the bytes were for.
  void take(size_t bytes, const char* purpose) {
    const size_t before = taken_.fetch_add(bytes);
    if (before <= limit_ && bytes <= limit_ - before) return;
    taken_ -= bytes;
    throw BudgetExceeded(
        "max_memory: " + megabytes(before) + " are in use and " + purpose + " needs " + megabytes(bytes) +
        " more, which passes the limit of " + megabytes(limit_) +
        ". Raise max_memory, train on fewer texts, or take a pattern that cuts shorter pieces");
  }

  void give_back(size_t bytes) { taken_ -= bytes; }

 private:
  static std::string megabytes(size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; }

  size_t limit_;
  std::atomic<size_t> taken_{0};
};

}  // namespace pyllm::tokenizers
