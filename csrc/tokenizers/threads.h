// Short-lived threads: none outlives the call, so a fork never meets one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace pyllm::tokenizers {

// Calls body(worker, index) for every index below count, on at most `num_threads` threads (worker <
// num_threads), in no fixed order. Rethrows the first exception after all threads have ended.
template <typename Body>
void parallel_for_each(size_t count, size_t num_threads, Body&& body) {
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&](size_t worker) {
    try {
      for (size_t index = next++; index < count; index = next++) body(worker, index);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  const size_t workers = std::clamp<size_t>(num_threads, 1, std::max<size_t>(count, 1));
  std::vector<std::thread> threads;
  threads.reserve(workers);
  try {
    for (size_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
  } catch (const std::system_error&) {
    // The system has no more threads: those that started and this one do the work.
  }
  work(0);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace pyllm::tokenizers
