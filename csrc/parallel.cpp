#include "parallel.h"

#include <sched.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace voxformer {
namespace {

using Clock = std::chrono::steady_clock;
using ThreadId = pid_t;

ThreadId ThisThread() noexcept {
#if defined(__linux__)
  return static_cast<ThreadId>(syscall(SYS_gettid));
#else
  return 0;
#endif
}

// Of a thread that has nothing to do, and of a caller whose threads are not done.
constexpr std::chrono::microseconds kAwake{50};
constexpr std::chrono::seconds kIdleLife{10};

void Relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `ready` came true while it was worth staying awake for.
template <class Ready>
bool StayAwakeFor(const Ready& ready) noexcept {
  static const bool alone = std::thread::hardware_concurrency() < 2;
  if (alone) return ready();
  for (const Clock::time_point end = Clock::now() + kAwake; Clock::now() < end;) {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      Relax();
    }
  }
  return ready();
}

// Where a thread may run, which it has from the caller that it works for.
class Cpus {
 public:
  // The caller's, and the one that it is on.
  static Cpus OfThisThread() noexcept {
    Cpus cpus;
#if defined(__linux__)
    cpus.known_ = sched_getaffinity(0, sizeof cpus.allowed_, &cpus.allowed_) == 0;
    cpus.here_ = sched_getcpu();
#endif
    return cpus;
  }

  // Keeps `thread`, which sleeps, off the caller's CPU until it calls Allow(). In a virtual machine
  // a CPU that sleeps looks taken, so that a thread is woken on the CPU of the one that wakes it,
  // and for milliseconds does not run.
  void KeepOff(ThreadId thread) const noexcept {
#if defined(__linux__)
    if (!known_ || here_ < 0 || here_ >= CPU_SETSIZE || CPU_COUNT(&allowed_) < 2) return;
    cpu_set_t others = allowed_;
    CPU_CLR(static_cast<std::size_t>(here_), &others);
    sched_setaffinity(thread, sizeof others, &others);
#endif
  }

  // This thread may run where the caller may.
  void Allow() const noexcept {
#if defined(__linux__)
    if (known_) sched_setaffinity(0, sizeof allowed_, &allowed_);
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t allowed_;
  int here_ = -1;
  bool known_ = false;
#endif
};

// One call of ParallelFor().
class Job {
 public:
  Job(std::size_t count, std::size_t workers,
      const std::function<void(std::size_t, std::size_t)>& work)
      : count_(count), workers_(workers), failure_index_(count), work_(work) {}

  // Takes indices until there are none.
  void Run(std::size_t worker) noexcept {
    // Indices are taken in order, so whatever is below a failed one has been begun and will report.
    while (!failed_.load(std::memory_order_relaxed)) {
      const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      try {
        work_(worker, index);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(failure_mutex_);
        failed_.store(true, std::memory_order_relaxed);
        if (index < failure_index_) {
          failure_index_ = index;
          failure_ = std::current_exception();
        }
      }
    }
  }

  void ThrowFailure() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  friend class Pool;

  const std::size_t count_;
  const std::size_t workers_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::size_t failure_index_;
  std::exception_ptr failure_;
  const std::function<void(std::size_t, std::size_t)>& work_;
  // The pool's, under its mutex; `running_` is looked at without.
  std::size_t joined_ = 1;  // workers that have a number, the caller's being 0
  std::atomic<std::size_t> running_{0};
  std::condition_variable done_;
};

struct Sleeper {
  const ThreadId thread = ThisThread();
  std::condition_variable wake;
  bool woken = false;
  Cpus cpus = Cpus();
};

class Pool {
 public:
  // Of this process: threads do not survive a fork, and who held a lock then holds it for ever.
  static Pool& Shared() {
    Pool* pool = shared_.load(std::memory_order_acquire);
    while (pool == nullptr || pool->process_ != getpid()) {
      Pool* const fresh = new Pool;
      if (shared_.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
      delete fresh;
    }
    return *pool;
  }

  void Run(Job* job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(job);
      open_.store(jobs_.size(), std::memory_order_relaxed);
      std::size_t wanted = 0;
      for (const Job* const open : jobs_) wanted += open->workers_ - open->joined_;
      const std::size_t awake = idle_ - sleepers_.size();
      if (wanted > awake) Wake(wanted - awake);
      while (idle_ < wanted && StartThread()) {
      }
    }
    job->Run(0);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Close(job);
    }
    const auto all_done = [job] { return job->running_.load(std::memory_order_acquire) == 0; };
    StayAwakeFor(all_done);
    // Also where all are done: the last to leave holds the lock until it has let go of the job.
    std::unique_lock<std::mutex> lock(mutex_);
    job->done_.wait(lock, all_done);
  }

 private:
  // Whether the system had one to give; without, those that run share the work.
  bool StartThread() {
    try {
      std::thread(&Pool::Serve, this).detach();
    } catch (const std::exception&) {
      return false;
    }
    ++idle_;
    return true;
  }

  // No more threads join `job`.
  void Close(Job* job) {
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
    open_.store(jobs_.size(), std::memory_order_relaxed);
  }

  // The last to fall asleep first: their caches are the warmest.
  void Wake(std::size_t count) {
    const Cpus cpus = Cpus::OfThisThread();
    for (; count > 0 && !sleepers_.empty(); --count) {
      Sleeper* const sleeper = sleepers_.back();
      sleepers_.pop_back();
      sleeper->cpus = cpus;
      sleeper->woken = true;
      cpus.KeepOff(sleeper->thread);
      sleeper->wake.notify_one();
    }
  }

  // Returns whether somebody woke this thread, with the lock held.
  bool Sleep(std::unique_lock<std::mutex>* lock) {
    Sleeper self;
    sleepers_.push_back(&self);
    self.wake.wait_for(*lock, kIdleLife, [&self] { return self.woken; });
    if (!self.woken) {
      sleepers_.erase(std::find(sleepers_.begin(), sleepers_.end(), &self));
      return false;
    }
    lock->unlock();
    self.cpus.Allow();
    lock->lock();
    return true;
  }

  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    for (;;) {
      StayAwakeFor([this] { return open_.load(std::memory_order_relaxed) > 0; });
      lock.lock();
      if (jobs_.empty() && !Sleep(&lock)) break;
      while (!jobs_.empty()) {
        Job* const job = jobs_.front();
        const std::size_t worker = job->joined_++;
        job->running_.fetch_add(1, std::memory_order_relaxed);
        --idle_;
        if (job->joined_ == job->workers_) Close(job);
        lock.unlock();
        job->Run(worker);
        lock.lock();
        ++idle_;
        if (job->running_.fetch_sub(1, std::memory_order_release) == 1) job->done_.notify_one();
      }
      lock.unlock();
    }
    --idle_;
  }

  static inline std::atomic<Pool*> shared_{nullptr};

  const pid_t process_ = getpid();
  std::mutex mutex_;
  std::vector<Job*> jobs_;            // that want more threads
  std::atomic<std::size_t> open_{0};  // their number
  std::size_t idle_ = 0;              // threads without a job
  std::vector<Sleeper*> sleepers_;    // of them, those that have to be woken
};

}  // namespace

void ParallelFor(std::size_t count, std::size_t num_threads,
                 const std::function<void(std::size_t worker, std::size_t index)>& work) {
  const std::size_t workers = std::min(std::max(num_threads, std::size_t{1}), count);
  Job job(count, workers, work);
  if (workers > 1) {
    Pool::Shared().Run(&job);
  } else {
    job.Run(0);
  }
  job.ThrowFailure();
}

}  // namespace voxformer
