// Built without -fsanitize=thread: the scheduler's own queues are no part of what is tested. It allocates
// nothing while fibers run, because the sanitizer sees malloc everywhere.
#include "simulator/block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "simulator/fiber.h"

#ifdef SIMULATOR_TSAN
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define TSAN_ACQUIRE(tag) __tsan_acquire(tag)
#define TSAN_RELEASE(tag) __tsan_release(tag)
#else
#define TSAN_ACQUIRE(tag)
#define TSAN_RELEASE(tag)
#endif

#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __asan_poison_memory_region(const volatile void*, size_t);
void __asan_unpoison_memory_region(const volatile void*, size_t);
}
#define ASAN_POISON(p, n) __asan_poison_memory_region(p, n)
#define ASAN_UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define ASAN_POISON(p, n)
#define ASAN_UNPOISON(p, n)
#endif

namespace pyllm::simulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStaticShared = 48 << 10, kGap = 64, kMaxThreads = 1024;

struct Lane {
  Fiber fiber;
  Dim3 thread;
  int index = 0;
  bool done = false;
  const char* waits_for = "";
  Site site;
  std::vector<Copy> copies;                        // issued, oldest first
  std::vector<size_t> groups;                      // copies of each committed group
  size_t open = 0;                                 // copies of no group yet
  unsigned block_barriers = 0, warp_barriers = 0;  // passed
};

// A meeting of a warp's lanes. Lanes of disjoint masks may hold several at once.
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  const char* operation = "";
  void* mine[kWarp] = {};
};

// What the thread sanitizer's edges hang on. Two by turns: who is first through a barrier may reach the next
// one before the others have left this one, and what it wrote in between is not ordered before their reads.
struct Edges {
  char by_turns[2] = {};
  void* of([[maybe_unused]] unsigned passed) { return &by_turns[passed % 2]; }
};

struct Warp {
  Meeting meetings[kWarp];
  Edges barrier;
};

struct SharedArray {
  const char* file;
  unsigned line, column;
  unsigned char* data;
};

// Threads that can run. A ring, because a vector's erase is a memmove, which the thread sanitizer would see.
class Ready {
 public:
  void reset(size_t capacity) {
    slots_.resize(capacity);
    first_ = count_ = 0;
  }
  size_t count() const { return count_; }
  void add(int lane) { slots_[(first_ + count_++) % slots_.size()] = lane; }
  int take(size_t at) {
    std::swap(slots_[first_], slots_[(first_ + at) % slots_.size()]);
    const int lane = slots_[first_];
    first_ = (first_ + 1) % slots_.size();
    --count_;
    return lane;
  }

 private:
  std::vector<int> slots_;
  size_t first_ = 0, count_ = 0;
};

struct Block {
  Dim3 grid, size, index;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Warp> warps;
  Ready ready;
  std::vector<int> at_barrier;
  int exited = 0;
  std::vector<unsigned char> static_memory;
  size_t static_used = 0;
  std::vector<SharedArray> arrays;
  unsigned char* dynamic = nullptr;
  Fiber scheduler;
  const std::function<void()>* kernel = nullptr;
  std::mt19937 random;
  bool shuffled = false;
  std::string error;
  Edges barrier;
  char begin = 0, end = 0;  // edges from and to the host
};

thread_local Block* g_block = nullptr;
thread_local Lane* g_lane = nullptr;

// volatile: the thread sanitizer's memset would count as the scheduler's access to shared memory.
void poison(void* data, size_t bytes) {
  for (volatile unsigned char* p = static_cast<unsigned char*>(data); bytes--; ++p) *p = 0xFF;
}

std::string place(const Site& site) {
  const char* slash = std::strrchr(site.file_name(), '/');
  return std::string(slash ? slash + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

std::string coordinates(const Dim3& d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

// "0-15 syncthreads kernel.cuh:31; 16-31 ..." of all lanes that wait, or that have returned.
std::string standing() {
  std::string text;
  const auto describe = [](const Lane& l) {
    return l.done ? std::string("returned") : std::string(l.waits_for) + " " + place(l.site);
  };
  const auto& lanes = g_block->lanes;
  for (size_t first = 0, next; first < lanes.size(); first = next) {
    for (next = first + 1; next < lanes.size() && describe(*lanes[next]) == describe(*lanes[first]);) ++next;
    text += (text.empty() ? "" : "; ") + std::to_string(first);
    if (next - first > 1) text += "-" + std::to_string(next - 1);
    text += " " + describe(*lanes[first]);
    if (text.size() > 1000) return text + " ...";
  }
  return text;
}

Lane* take_ready() {
  Ready& ready = g_block->ready;
  if (ready.count() == 0) return nullptr;
  const size_t at = g_block->shuffled ? g_block->random() % ready.count() : 0;
  return g_block->lanes[static_cast<size_t>(ready.take(at))].get();
}

void switch_to(Lane& next) {
  Fiber& from = g_lane->fiber;
  g_lane = &next;
  from.switch_to(next.fiber);
}

void wait_for_others(const char* operation, const Site& site) {
  g_lane->waits_for = operation;
  g_lane->site = site;
  Lane* me = g_lane;
  Lane* next = take_ready();
  if (!next) fail("deadlock; threads stand at: " + standing(), site);
  if (next != me) switch_to(*next);
}

void end_grid(const std::string& error) {
  g_block->error = error;
  g_lane->fiber.switch_to(g_block->scheduler, true);
  std::abort();
}

struct Failure {
  std::string message;
};

void check_copies() {
  if (!g_lane->copies.empty())
    throw Failure{"thread " + std::to_string(g_lane->index) +
                  " returned before its asynchronous copies were waited for"};
}

void run_lane() {
  g_lane->fiber.entered();
  TSAN_ACQUIRE(&g_block->begin);
  try {
    (*g_block->kernel)();
    check_copies();
  } catch (const Failure& failure) {
    end_grid(failure.message);
  } catch (const std::exception& other) {
    end_grid(other.what());
  }
  g_lane->done = true;
  ++g_block->exited;
  TSAN_RELEASE(&g_block->end);
  Lane* next = take_ready();
  if (next) {
    Fiber& from = g_lane->fiber;
    g_lane = next;
    from.switch_to(next->fiber, true);
  }
  const bool all = g_block->exited == static_cast<int>(g_block->lanes.size());
  end_grid(all ? "" : "deadlock; threads stand at: " + standing());
}

// Threads of the block, from its first instruction to its last.
void run_block() {
  Block& b = *g_block;
  ASAN_UNPOISON(b.static_memory.data(), b.static_memory.size());
  b.arrays.clear();
  b.static_used = 0;
  b.at_barrier.clear();
  b.ready.reset(b.lanes.size());
  b.exited = 0;
  for (auto& lane : b.lanes) {
    lane->done = false;
    lane->copies.clear();
    lane->groups.clear();
    lane->open = 0;
    lane->fiber.start(run_lane);
    b.ready.add(lane->index);
  }
  g_lane = take_ready();
  b.scheduler.switch_to(g_lane->fiber);
  TSAN_ACQUIRE(&b.end);
  g_lane = nullptr;
  if (!b.error.empty()) throw std::runtime_error("simulator: block " + coordinates(b.index) + ": " + b.error);
}

void make_lanes(Block& b) {
  const size_t threads = size_t{b.size.x} * b.size.y * b.size.z;
  if (threads == 0 || threads > kMaxThreads) {
    throw std::runtime_error("simulator: a block of " + std::to_string(threads) + " threads");
  }
  for (size_t i = 0; i < threads; ++i) {
    auto lane = std::make_unique<Lane>();
    const unsigned n = static_cast<unsigned>(i);
    lane->index = static_cast<int>(i);
    lane->thread = {n % b.size.x, n / b.size.x % b.size.y, n / (b.size.x * b.size.y)};
    lane->copies.reserve(1024);
    lane->groups.reserve(64);
    b.lanes.push_back(std::move(lane));
  }
  b.warps.resize((threads + kWarp - 1) / kWarp);
  b.at_barrier.reserve(threads);
  b.arrays.reserve(64);
  b.static_memory.resize(kStaticShared);
}

class Running {
 public:
  explicit Running(Block& b) { g_block = &b; }
  ~Running() { g_block = nullptr; }
};

std::vector<uint64_t> block_order(Block& b) {
  std::vector<uint64_t> order(uint64_t{b.grid.x} * b.grid.y * b.grid.z);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  if (b.shuffled) std::shuffle(order.begin(), order.end(), b.random);
  return order;
}

}  // namespace

const Dim3& thread_index() { return g_lane->thread; }
const Dim3& block_index() { return g_block->index; }
const Dim3& block_size() { return g_block->size; }
const Dim3& grid_size() { return g_block->grid; }
int lane_index() { return g_lane->index % kWarp; }

void fail(const std::string& message, const Site& site) {
  throw Failure{"thread " + std::to_string(g_lane->index) + " at " + place(site) + ": " + message};
}

void run_grid(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  Block b;
  b.grid = grid;
  b.size = block;
  b.kernel = &kernel;
  if (const char* seed = std::getenv("PYLLM_SIMULATOR_SEED")) {
    b.shuffled = true;
    b.random.seed(static_cast<unsigned>(std::atoi(seed)));
  }
  make_lanes(b);
  const std::unique_ptr<void, void (*)(void*)> memory(
      shared_bytes ? std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128) : nullptr, std::free);
  b.dynamic = static_cast<unsigned char*>(memory.get());
  ASAN_POISON(b.dynamic + shared_bytes, (shared_bytes + 127) / 128 * 128 - shared_bytes);
  b.scheduler.adopt();
  const Running running(b);
  for (uint64_t i : block_order(b)) {
    b.index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
               static_cast<unsigned>(i / (uint64_t{grid.x} * grid.y))};
    poison(b.dynamic, shared_bytes);
    TSAN_RELEASE(&b.begin);
    run_block();
  }
}

void* dynamic_shared() { return g_block->dynamic; }

void* static_shared(const Site& declaration, size_t bytes) {
  Block& b = *g_block;
  for (const SharedArray& a : b.arrays) {
    if (a.line == declaration.line() && a.column == declaration.column() &&
        std::strcmp(a.file, declaration.file_name()) == 0) {
      return a.data;
    }
  }
  const size_t whole = (bytes + kGap + 127) / 128 * 128;
  if (b.static_used + whole > kStaticShared) fail("more than 48 KB of static shared memory", declaration);
  unsigned char* data = b.static_memory.data() + b.static_used;
  b.static_used += whole;
  poison(data, bytes);
  ASAN_POISON(data + bytes, whole - bytes);
  b.arrays.push_back({declaration.file_name(), declaration.line(), declaration.column(), data});
  return data;
}

void block_barrier(const Site& site) {
  Block& b = *g_block;
  [[maybe_unused]] void* edges = b.barrier.of(g_lane->block_barriers++);
  TSAN_RELEASE(edges);
  if (b.exited) fail("__syncthreads where other threads have returned: " + standing(), site);
  if (b.at_barrier.size() + 1 == b.lanes.size()) {
    for (int i : b.at_barrier) {
      if (b.lanes[static_cast<size_t>(i)]->site.line() != site.line()) {
        fail("divergence; the barrier was reached at several lines: " + standing(), site);
      }
    }
    for (int i : b.at_barrier) b.ready.add(i);
    b.at_barrier.clear();
  } else {
    b.at_barrier.push_back(g_lane->index);
    wait_for_others("__syncthreads", site);
  }
  TSAN_ACQUIRE(edges);
}

namespace {

// The open meeting of this mask, or a free one.
Meeting& meeting_of(Warp& warp, uint32_t mask) {
  Meeting* free = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.arrived && m.mask == mask) return m;
    if (!m.arrived && !free) free = &m;
  }
  return *free;
}

Warp& my_warp() { return g_block->warps[static_cast<size_t>(g_lane->index / kWarp)]; }

void check_mask(uint32_t mask, const char* operation, const Site& site) {
  if (!(mask >> lane_index() & 1))
    fail(std::string(operation) + ": the calling lane is not in its mask", site);
  const int first = g_lane->index / kWarp * kWarp;
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    const size_t lane = static_cast<size_t>(first + i);
    if (lane >= g_block->lanes.size())
      fail(std::string(operation) + ": a lane of the mask does not exist", site);
    if (g_block->lanes[lane]->done) fail(std::string(operation) + ": a lane of the mask has returned", site);
  }
}

Meeting* g_full = nullptr;  // whose lanes wait for release()

}  // namespace

void* const* meet(uint32_t mask, const char* operation, const Site& site, void* mine) {
  check_mask(mask, operation, site);
  Meeting& m = meeting_of(my_warp(), mask);
  if (m.arrived && std::strcmp(m.operation, operation) != 0) {
    fail(std::string("divergence; ") + operation + " meets " + m.operation +
             "; threads stand at: " + standing(),
         site);
  }
  m.mask = mask;
  m.operation = operation;
  m.mine[lane_index()] = mine;
  m.arrived |= 1u << lane_index();
  if (m.arrived == mask) {
    g_full = &m;
    return m.mine;
  }
  wait_for_others(operation, site);
  return nullptr;
}

void release() {
  const int first = g_lane->index / kWarp * kWarp;
  for (int i = 0; i < kWarp; ++i) {
    if ((g_full->mask >> i & 1) && i != lane_index()) g_block->ready.add(first + i);
  }
  g_full->arrived = 0;
}

void warp_barrier(uint32_t mask, const Site& site) {
  [[maybe_unused]] void* edges = my_warp().barrier.of(g_lane->warp_barriers++);
  TSAN_RELEASE(edges);
  if (meet(mask, "__syncwarp", site, nullptr)) release();
  TSAN_ACQUIRE(edges);
}

void copy_later(const Copy& copy) {
  g_lane->copies.push_back(copy);
  ++g_lane->open;
}

void commit_copies() {
  g_lane->groups.push_back(g_lane->open);
  g_lane->open = 0;
}

void wait_for_copies(size_t groups_left) {
  auto& groups = g_lane->groups;
  while (groups.size() > groups_left) {
    auto& copies = g_lane->copies;
    const auto end = copies.begin() + static_cast<std::ptrdiff_t>(groups.front());
    for (auto copy = copies.begin(); copy != end; ++copy) {
      std::memcpy(copy->to, copy->from, copy->valid);
      std::memset(static_cast<char*>(copy->to) + copy->valid, 0, copy->bytes - copy->valid);
    }
    copies.erase(copies.begin(), end);
    groups.erase(groups.begin());
  }
}

}  // namespace pyllm::simulator
