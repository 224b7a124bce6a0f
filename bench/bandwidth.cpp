// Reads memory with all threads as a stream of weights is read: each thread its own run, front to back, in wide loads.
// Usage: bandwidth THREADS BYTES. For each line on stdin it answers one line of JSON: GB/s (10^9) of each pass.

#include <sys/mman.h>

#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kPasses = 5;
constexpr std::size_t kVectors = 8;

using Vector = std::uint64_t __attribute__((vector_size(32)));

// Every byte counts in the result, so that no load can be left out.
std::uint64_t read_all(const Vector* data, std::size_t vectors) {
  Vector sums[kVectors] = {};
  for (std::size_t i = 0; i < vectors; i += kVectors)
    for (std::size_t k = 0; k < kVectors; ++k) sums[k] ^= data[i + k];
  std::uint64_t folded = 0;
  for (const Vector& sum : sums)
    for (int lane = 0; lane < 4; ++lane) folded ^= sum[lane];
  return folded;
}

void fail(const char* message) {
  std::fprintf(stderr, "bandwidth: %s\n", message);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) fail("usage: bandwidth THREADS BYTES");
  const std::size_t threads = std::strtoull(argv[1], nullptr, 10);
  const std::size_t step = threads * kVectors * sizeof(Vector);
  if (threads == 0) fail("at least one thread is needed");
  const std::size_t bytes = std::strtoull(argv[2], nullptr, 10) / step * step;
  if (bytes == 0) fail("too few bytes for so many threads");
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("there is not so much memory");
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 0x5a, bytes);

  const std::size_t share = bytes / threads / sizeof(Vector);
  std::vector<std::uint64_t> results(threads);
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<double> rates;
    for (int pass = 0; pass < kPasses; ++pass) {
      std::barrier gate(static_cast<std::ptrdiff_t>(threads + 1));
      std::vector<std::thread> readers;
      for (std::size_t t = 0; t < threads; ++t)
        readers.emplace_back([&, t] {
          gate.arrive_and_wait();
          results[t] ^= read_all(static_cast<const Vector*>(memory) + t * share, share);
        });
      const auto started = std::chrono::steady_clock::now();
      gate.arrive_and_wait();
      for (std::thread& reader : readers) reader.join();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
      rates.push_back(static_cast<double>(bytes) / taken.count() * 1e-9);
    }
    std::uint64_t all = 0;
    for (const std::uint64_t result : results) all ^= result;
    if (all == 1) std::fprintf(stderr, "bandwidth: an unlikely sum\n");
    std::printf("[");
    for (int pass = 0; pass < kPasses; ++pass) std::printf("%s%.3f", pass ? ", " : "", rates[pass]);
    std::printf("]\n");
    std::fflush(stdout);
  }
}
