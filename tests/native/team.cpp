// Loops inside with_team(): every iteration runs once, whatever the team, and what one loop wrote the next
// one reads.
#include "core/team.h"

#include <atomic>
#include <stdexcept>

#include "harness.h"

namespace pyllm::test {
namespace {

// Sums of neighbours, again and again: each loop reads what others wrote in the loop before.
std::vector<int64_t> smooth(int64_t count, int64_t loops, int64_t grain) {
  std::vector<int64_t> from(static_cast<size_t>(count), 1), to(from);
  with_team([&] {
    for (int64_t loop = 0; loop < loops; ++loop) {
      parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          to[static_cast<size_t>(i)] =
              (from[static_cast<size_t>(i)] + 3 * from[static_cast<size_t>((i + 1) % count)] + i) % 1000003;
        }
      });
      std::swap(from, to);
    }
  });
  return from;
}

void check_smooth(int64_t count, int64_t loops, int64_t grain) {
  set_threads(1);
  const std::vector<int64_t> alone = smooth(count, loops, grain);
  for (const int threads : {2, 3, 5}) {
    set_threads(threads);
    CHECK(smooth(count, loops, grain) == alone);
  }
}

// The same error comes out of a loop, and out of the team, as without one.
void check_errors() {
  set_threads(3);
  for (const bool in_loop : {true, false}) {
    std::atomic<int> after{0};
    bool caught = false;
    try {
      with_team([&] {
        parallel_for(0, 100, 1, [&](int64_t begin, int64_t) {
          if (in_loop && begin == 0) throw std::runtime_error("in a part");
        });
        if (!in_loop) throw std::runtime_error("between loops");
        ++after;
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught && after == 0);
  }
}

// A team inside a loop or inside another team, a loop inside a part, a loop after all of them.
void check_nesting() {
  set_threads(3);
  std::atomic<int64_t> sum{0};
  const auto count = [&](int64_t begin, int64_t end) { sum += end - begin; };
  parallel_for(0, 3, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) with_team([&] { parallel_for(0, 50, 1, count); });
  });
  CHECK(sum == 150);
  with_team([&] {
    parallel_for(0, 4, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) parallel_for(0, 10, 1, count);
    });
    with_team([&] { parallel_for(0, 20, 1, count); });
    parallel_for(0, 30, 1, count);
  });
  CHECK(sum == 150 + 40 + 20 + 30);
}

// A pool that runs the parts one after the other, the last one first.
void check_serial_pool() {
  set_parallel_runner([](int64_t begin, int64_t end, int64_t, ParallelBody body, void* context) {
    const int64_t middle = (begin + end) / 2;
    body(context, middle, end);
    body(context, begin, middle);
  });
  CHECK(smooth(64, 5, 1).size() == 64);
  set_threads(1);
}

}  // namespace

void test_team() {
  for (const int64_t count : {1, 2, 3, 1000}) check_smooth(count, 50, 1);
  check_smooth(1000, 20, 300);
  check_errors();
  check_nesting();
  check_serial_pool();
}

void fuzz_team(Dice& dice) {
  const int64_t count = dice.size(500), loops = dice.number(1, 40);
  check_smooth(count, loops, dice.size(100));
}

}  // namespace pyllm::test
