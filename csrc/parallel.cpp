#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace voxformer {

void ParallelFor(std::size_t count, std::size_t num_threads,
                 const std::function<void(std::size_t worker, std::size_t index)>& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex failure_mutex;
  std::size_t failure_index = count;
  std::exception_ptr failure;

  const auto run = [&](std::size_t worker) noexcept {
    // Indices are taken in order, so whatever is below a failed one has been begun and will report.
    while (!failed.load(std::memory_order_relaxed)) {
      const std::size_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      try {
        work(worker, index);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(failure_mutex);
        failed.store(true, std::memory_order_relaxed);
        if (index < failure_index) {
          failure_index = index;
          failure = std::current_exception();
        }
      }
    }
  };

  const std::size_t helpers = std::min(std::max(num_threads, std::size_t{1}), count);
  std::vector<std::thread> threads;
  threads.reserve(helpers);
  for (std::size_t worker = 1; worker < helpers; ++worker) {
    try {
      threads.emplace_back(run, worker);
    } catch (const std::system_error&) {
      break;  // The system has no more threads to give; those that run share the work.
    }
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace voxformer
