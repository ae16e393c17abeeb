// The little that the native tests share: checks, levels, and tensors in heap blocks of their exact size, so
// that AddressSanitizer sees every element read or written outside.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace pyllm::test {

// Where a random test stands, for the message of a failure.
inline std::string g_where;

[[noreturn]] inline void fail(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: %s (at level %s)%s\n", file, line, message.c_str(), isa_name(active_isa()),
               g_where.c_str());
  std::exit(1);
}

#define CHECK(condition) \
  if (!(condition)) ::pyllm::test::fail(__FILE__, __LINE__, #condition)

inline std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const char* name : {"scalar", "avx2", "avx512", "amx", "neon"}) {
    if (machine_supports(parse_isa(name))) names.emplace_back(name);
  }
  return names;
}

// Ops run on this many threads from now on.
void set_threads(int threads);

// The dtype of sums and statistics of tensors of `dtype`.
inline DType accumulator(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

inline double read(DType dtype, const void* data, int64_t i) {
  double value = 0;
  visit(dtype, [&](auto zero) { value = to_double(static_cast<const decltype(zero)*>(data)[i]); });
  return value;
}

// `count` elements of one dtype.
class Values {
 public:
  Values(DType dtype, int64_t count)
      : dtype_(dtype), count_(count), data_(new char[static_cast<size_t>(count * size_of(dtype))]) {}

  static Values random(DType dtype, int64_t count, unsigned seed) {
    Values values(dtype, count);
    std::mt19937 engine(seed);
    std::uniform_real_distribution<double> uniform(-2, 2);
    visit(dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int64_t i = 0; i < count; ++i) values.as<T>()[i] = from_double<T>(uniform(engine));
    });
    return values;
  }

  static Values filled(DType dtype, int64_t count, double value) {
    Values values(dtype, count);
    for (int64_t i = 0; i < count; ++i) values.set(i, value);
    return values;
  }

  void set(int64_t i, double value) {
    visit(dtype_, [&](auto zero) { as<decltype(zero)>()[i] = from_double<decltype(zero)>(value); });
  }

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  void* data() { return data_.get(); }
  DType dtype() const { return dtype_; }
  int64_t count() const { return count_; }
  double operator[](int64_t i) const { return read(dtype_, data_.get(), i); }

  bool same_bits(const Values& other) const {
    return count_ == other.count_ &&
           std::memcmp(data_.get(), other.data_.get(), static_cast<size_t>(count_ * size_of(dtype_))) == 0;
  }
  // Largest difference, as a multiple of the larger of 1 and the largest value.
  double distance(const Values& other) const {
    double largest = 1, difference = 0;
    for (int64_t i = 0; i < count_; ++i) {
      largest = std::fmax(largest, std::fabs(other[i]));
      difference = std::fmax(difference, std::fabs((*this)[i] - other[i]));
    }
    return difference / largest;
  }

 private:
  DType dtype_;
  int64_t count_;
  std::unique_ptr<char[]> data_;
};

// Random choices of one case.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  // In [first, last].
  int64_t number(int64_t first, int64_t last) {
    return std::uniform_int_distribution<int64_t>(first, last)(engine_);
  }
  bool coin() { return number(0, 1) == 1; }
  // Mostly small, sometimes up to `last`, often beside a multiple of 16.
  int64_t size(int64_t last) {
    const int64_t n = number(1, coin() ? last : std::min<int64_t>(last, 40));
    return coin() ? n : std::clamp<int64_t>(n / 16 * 16 + number(-1, 1), 1, last);
  }

 private:
  std::mt19937_64 engine_;
};

// For sums of hundreds of terms. At the amx level weights and score gradients are bfloat16 between the
// products of attention: 1.1e-2 was seen there. tests/ops holds every level to the error rule.
inline double tolerance(DType dtype, const std::string& level) {
  if (dtype == DType::bf16) return level == "amx" ? 3.2e-2 : 1e-2;
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 2e-3;
}

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

// Calls run(dtype), which returns an op's outputs, at every level with 1 and 3 threads: they must be near
// those of the scalar level, and their bits independent of the threads.
template <class F>
void check_levels_and_threads(const F& run) {
  for (DType dtype : kDTypes) {
    force_isa("scalar");
    set_threads(1);
    const std::vector<Values> expected = run(dtype);
    for (const std::string& level : levels()) {
      if (dtype == DType::f64 && level != "scalar") continue;  // doubles always run the reference
      force_isa(level);
      set_threads(1);
      const std::vector<Values> alone = run(dtype);
      set_threads(3);
      const std::vector<Values> together = run(dtype);
      for (size_t i = 0; i < expected.size(); ++i) {
        const double distance = alone[i].distance(expected[i]);
        if (!(distance <= tolerance(dtype, level))) {
          fail(__FILE__, __LINE__,
               "output " + std::to_string(i) + " of dtype " + std::to_string(static_cast<int>(dtype)) +
                   " is " + std::to_string(distance) + " off the reference");
        }
        CHECK(together[i].same_bits(alone[i]));
      }
    }
  }
}

}  // namespace pyllm::test
