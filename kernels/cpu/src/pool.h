// Threads of our own, which share units of work by a counter, and sleep when there is none.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "exact.h"

namespace aa {

AA_INLINE void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline int cores_allowed() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
  int present = (int)std::thread::hardware_concurrency();
  return present > 0 ? present : 1;
}

inline int default_threads() {
  const char* wanted = std::getenv("OMP_NUM_THREADS");
  int threads = wanted ? std::atoi(wanted) : 0;
  return threads > 0 ? threads : cores_allowed();
}

// Work on units 0 .. units-1, given out one by one.
struct Job {
  void (*work)(void* context, int64_t unit, int thread);
  void* context;
  int64_t units;
  std::atomic<int64_t> next;

  void take_part(int thread) {
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) work(context, unit, thread);
  }
};

// The workers beside the calling thread. They are detached and own it together, so that neither exit nor fork waits.
class Crew : public std::enable_shared_from_this<Crew> {
 public:
  explicit Crew(int workers) : may_spin_(workers < cores_allowed()) {}

  // How long workers wait before they sleep; those that share a core with another don't.
  void spin(std::chrono::nanoseconds time) { spin_.store(may_spin_ ? time.count() : 0, std::memory_order_relaxed); }

  // As many as the system grants: the calling thread alone would do.
  void start(int workers) {
    try {
      for (int i = 1; i <= workers; i++) std::thread([self = shared_from_this(), i] { self->live(i); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void run(Job& job) {
    job_ = &job;
    door_.store(((door_.load(std::memory_order_relaxed) >> NUMBER_AT) + 1) << NUMBER_AT | OPEN);
    wake();
    job.take_part(0);
    // Who has not come by now is not waited for: only those inside are.
    door_.fetch_and(~OPEN);
    for (int tries = 0; door_.load(std::memory_order_acquire) & INSIDE; tries++) tries < 1000 ? pause() : (void)sched_yield();
  }

  void dismiss() {
    dismissed_.store(true);
    wake();
  }

 private:
  // The door: number of the job, whether it takes workers, and how many are inside.
  static constexpr uint64_t INSIDE = 0xffff, OPEN = 0x10000;
  static constexpr int NUMBER_AT = 17;

  void live(int thread) {
    ExactMode mode;
    for (uint64_t last = 0; wait_for_work(last);) {
      uint64_t door = door_.load();
      while ((door & OPEN) && !door_.compare_exchange_weak(door, door + 1)) {
      }
      last = door >> NUMBER_AT;
      if (!(door & OPEN)) continue;
      job_->take_part(thread);
      door_.fetch_sub(1, std::memory_order_release);
    }
  }

  bool has_news(uint64_t last) {
    uint64_t door = door_.load();
    return ((door & OPEN) && door >> NUMBER_AT != last) || dismissed_.load();
  }

  // False when dismissed.
  bool wait_for_work(uint64_t last) {
    auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(spin_.load(std::memory_order_relaxed));
    while (!has_news(last) && std::chrono::steady_clock::now() < until) {
      for (int i = 0; i < 32 && !has_news(last); i++) pause();
    }
    if (!has_news(last)) sleep(last);
    return !dismissed_.load();
  }

  void sleep(uint64_t last) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    news_.wait(lock, [&] { return has_news(last); });
    sleepers_.fetch_sub(1);
  }

  void wake() {
    if (sleepers_.load() == 0) return;
    { std::lock_guard<std::mutex> lock(mutex_); }
    news_.notify_all();
  }

  const bool may_spin_;
  std::atomic<int64_t> spin_{0};
  Job* job_ = nullptr;
  alignas(64) std::atomic<uint64_t> door_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> dismissed_{false};
  std::mutex mutex_;
  std::condition_variable news_;
};

class Pool {
 public:
  static Pool& get() {
    static Pool& pool = *new Pool;  // never destroyed: workers may outlive static objects
    return pool;
  }

  int threads() const { return threads_; }

  void set_threads(int threads) {
    if (threads < 1 || threads == threads_) return;
    if (crew_) crew_->dismiss();
    crew_.reset();
    threads_ = threads;
  }

  void run(Job& job) {
    if (threads_ == 1 || job.units < 2) return job.take_part(0);
    bool is_new = !crew_;
    if (is_new) crew_ = std::make_shared<Crew>(threads_ - 1);
    crew_->spin(awake_);
    if (is_new) crew_->start(threads_ - 1);
    crew_->run(job);
  }

  // How long workers wait for the next job before they sleep.
  static constexpr std::chrono::nanoseconds USUALLY{100'000};

  void stay_awake(std::chrono::nanoseconds time) { awake_ = std::max(USUALLY, time); }

  std::mutex& mutex() { return mutex_; }

 private:
  Pool() { pthread_atfork(nullptr, nullptr, [] { get().after_fork(); }); }

  // A child has no workers, and nobody in it will release the lock.
  void after_fork() {
    crew_.reset();
    new (&mutex_) std::mutex;
  }

  int threads_ = default_threads();
  std::chrono::nanoseconds awake_ = USUALLY;
  std::shared_ptr<Crew> crew_;
  std::mutex mutex_;
};

// Calls work(unit, thread) for every unit, thread below Pool::get().threads(); returns when all are done.
template <class Work>
inline void parallel(int64_t units, const Work& work) {
  Job job{[](void* context, int64_t unit, int thread) { (*(const Work*)context)(unit, thread); }, (void*)&work, units, {0}};
  Pool::get().run(job);
}

inline int threads() { return Pool::get().threads(); }

// What every op holds while it runs: the pool and its scratch for itself, and the arithmetic that is defined.
class Call {
 public:
  explicit Call(std::chrono::nanoseconds awake = Pool::USUALLY) : lock_(Pool::get().mutex()) { Pool::get().stay_awake(awake); }

 private:
  std::lock_guard<std::mutex> lock_;
  ExactMode mode_;
};

// Memory that grows and is kept from call to call; what it held is lost when it grows.
class Scratch {
 public:
  template <class T>
  T* at_least(int64_t count) {
    size_t bytes = count * sizeof(T);
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + bytes / 4 + 63) / 64 * 64;
      data_ = std::aligned_alloc(64, size_);
      if (!data_) throw std::bad_alloc();
    }
    return (T*)data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace aa
