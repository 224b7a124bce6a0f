// What the host does in a layer step of a GPU: functions of the kind that cuLaunchHostFunc calls, on a thread of CUDA's. They
// return nothing, throw nothing, and wait for nothing but the pool.
#pragma once
#include <vector>

#include "feed_forward.h"

namespace aa {

// An expert that is computed in place.
struct Placed {
  aa_matrix gate_up, down;
  const int32_t* pairs;
  int64_t first, count;  // rows of h
};

// What `words` lists, and the scratch of a call.
struct InPlaceStep {
  const aa_in_place_task& task;
  const std::vector<Placed>& experts;
  Operand x;
  float* h;         // [rows, F]
  uint8_t* hidden;  // h as records of the down matrix
  int32_t* made;    // [experts, F / group], blocks of columns of h
  int64_t hidden_stride;
  std::atomic<bool>& finite;

  int64_t width() const { return task.down.columns; }
  int64_t groups() const { return groups_of(task.down); }
};

// Whether words, pairs and frames stay within what the task was made for.
inline bool is_sound(const aa_in_place_task& task) {
  const int32_t count = task.words[0], T = task.words[1];
  if (count < 0 || count > task.most_experts || T < 1 || T > task.most_rows) return false;
  int64_t most_pairs = T * task.per_token;
  for (int32_t i = 0; i < count; i++) {
    const int32_t* word = task.words + 2 + 3 * i;
    if (word[0] < 0 || word[0] >= task.frame_count || word[1] < 0 || word[1] > word[2] || word[2] > most_pairs) return false;
    for (int32_t at = word[1]; at < word[2]; at++)
      if (task.pairs[at] < 0 || task.pairs[at] >= most_pairs) return false;
  }
  return true;
}

// The experts of `words`; returns how many rows of h they have.
inline int64_t list_placed(const aa_in_place_task& task, std::vector<Placed>& experts) {
  int64_t rows = 0;
  experts.clear();
  for (int32_t i = 0; i < task.words[0]; i++) {
    const int32_t* word = task.words + 2 + 3 * i;
    int64_t blob = task.frames + word[0] * task.blob_bytes, count = word[2] - word[1];
    experts.push_back({within(task.gate_up, blob), within(task.down, blob), task.pairs + word[1], rows, count});
    rows += count;
  }
  return rows;
}

// A row that was quantised elsewhere, as a record.
inline void make_record(const int8_t* q, const float* scales, int64_t columns, int64_t group, uint8_t* record) {
  int64_t groups = columns / group;
  memcpy(record, q, columns);
  memcpy(record + columns, scales, groups * sizeof(float));
  int32_t* sums = (int32_t*)(record + columns) + groups;
  for (int64_t g = 0; g < groups; g++) {
    int32_t total = 0;
    for (int64_t j = 0; j < group; j++) total += q[g * group + j];
    sums[g] = total;
  }
}

inline Operand make_records(const aa_in_place_task& task, Scratch& scratch) {
  const int64_t M = task.gate_up.columns, group = task.gate_up.group, stride = record_bytes(M, group);
  uint8_t* records = scratch.at_least<uint8_t>(task.words[1] * stride);
  parallel(task.words[1], [&](int64_t t, int) {
    make_record(task.q + t * M, task.scales + t * (M / group), M, group, records + t * stride);
  });
  return {records, stride};
}

// Sixteen columns of h for all rows of an expert.
inline void make_block(const InPlaceStep& step, const Placed& expert, int64_t block) {
  const int64_t F = step.width();
  float gate[TILE * ROW_BLOCK], up[TILE * ROW_BLOCK];
  for (int64_t row = 0; row < expert.count; row += TILE) {
    int count = (int)std::min<int64_t>(TILE, expert.count - row);
    const uint8_t* rows[TILE];
    for (int t = 0; t < count; t++) rows[t] = step.x.row(expert.pairs[row + t] / step.task.per_token);
    product(expert.gate_up, block, rows, count, gate, ROW_BLOCK);
    product(expert.gate_up, F / ROW_BLOCK + block, rows, count, up, ROW_BLOCK);
    for (int t = 0; t < count; t++) {
      float* to = step.h + (expert.first + row + t) * F + block * ROW_BLOCK;
      store(to, silu(load(gate + t * ROW_BLOCK)) * load(up + t * ROW_BLOCK));
    }
  }
}

// A unit of the first half: who makes the last block of a group quantises it, so that units can be small and nobody waits.
inline void make_unit(const InPlaceStep& step, int64_t unit) {
  const int64_t F = step.width(), blocks = F / ROW_BLOCK, group = step.task.down.group;
  const Placed& expert = step.experts[unit / blocks];
  const int64_t block = unit % blocks, g = block * ROW_BLOCK / group;
  make_block(step, expert, block);
  int32_t before = __atomic_fetch_add(&step.made[unit / blocks * step.groups() + g], 1, __ATOMIC_ACQ_REL);
  if (before + 1 < group / ROW_BLOCK) return;
  for (int64_t row = expert.first; row < expert.first + expert.count; row++)
    if (!quantise_group(step.h + row * F + g * group, F, group, g, step.hidden + row * step.hidden_stride))
      step.finite.store(false, std::memory_order_relaxed);
}

// Blocks [first, last) of an expert's output columns, of all its pairs.
inline void put_down(const InPlaceStep& step, const Placed& expert, int64_t first, int64_t last) {
  const int64_t M = step.task.down.rows;
  for (int64_t row = 0; row < expert.count; row += TILE) {
    int count = (int)std::min<int64_t>(TILE, expert.count - row);
    const uint8_t* rows[TILE];
    for (int t = 0; t < count; t++) rows[t] = step.hidden + (expert.first + row + t) * step.hidden_stride;
    for (int64_t block = first; block < last; block++) {
      float y[TILE * ROW_BLOCK];
      product(expert.down, block, rows, count, y, ROW_BLOCK);
      for (int t = 0; t < count; t++)
        memcpy(step.task.outputs + expert.pairs[row + t] * M + block * ROW_BLOCK, y + t * ROW_BLOCK, sizeof(float) * ROW_BLOCK);
    }
  }
}

inline void run_step(const InPlaceStep& step) {
  const int64_t experts = step.experts.size(), blocks = row_blocks(step.task.down);
  std::fill_n(step.made, experts * step.groups(), 0);
  parallel(experts * (step.width() / ROW_BLOCK), [&](int64_t unit, int) { make_unit(step, unit); });
  int64_t each = std::max<int64_t>(1, std::min(MOST_DOWN_BLOCKS, experts * blocks / (8 * threads())));
  int64_t units = (blocks + each - 1) / each;
  parallel(experts * units, [&](int64_t unit, int) {
    int64_t first = unit % units * each;
    put_down(step, step.experts[unit / units], first, std::min(first + each, blocks));
  });
}

// Computes what `words` lists. False where h isn't finite.
inline bool compute_in_place(const aa_in_place_task& task) {
  static Scratch records, floats, hidden, made;
  static std::vector<Placed> experts;
  Call call{std::chrono::nanoseconds(task.awake)};
  const int64_t rows = list_placed(task, experts), F = task.down.columns, stride = record_bytes(F, task.down.group);
  std::atomic<bool> finite{true};
  run_step({task, experts, make_records(task, records), floats.at_least<float>(rows * F), hidden.at_least<uint8_t>(rows * stride),
            made.at_least<int32_t>(experts.size() * groups_of(task.down)), stride, finite});
  return finite;
}

// Copies past the caches, which the copy's reader, a GPU, doesn't share; otherwise every line would be read before it is written.
inline void copy_through(uint8_t* to, const uint8_t* from, int64_t bytes) {
  int64_t done = 0;
#if defined(__x86_64__)
  if ((uintptr_t)to % 8 == 0) {
    for (; done + 8 <= bytes; done += 8) {
      long long eight;
      memcpy(&eight, from + done, 8);
      __builtin_ia32_movnti64((long long*)(to + done), eight);
    }
    __builtin_ia32_sfence();
  }
#endif
  memcpy(to + done, from + done, bytes - done);
}

constexpr int64_t PIECE = 256 << 10;

inline void copy_blobs(const aa_stage_task& task, int64_t count) {
  Call call;
  const int64_t pieces = (task.blob_bytes + PIECE - 1) / PIECE;
  parallel(count * pieces, [&](int64_t unit, int) {
    int64_t row = unit / pieces, at = unit % pieces * PIECE, frame = task.moves[row * task.columns];
    copy_through(task.ring + row * task.blob_bytes + at, (const uint8_t*)(task.frames + frame * task.blob_bytes) + at,
                 std::min(PIECE, task.blob_bytes - at));
  });
}

inline bool is_sound(const aa_stage_task& task) {
  const int32_t count = task.count[0];
  if (count < 0 || count > task.most) return false;
  for (int64_t i = 0; i < count; i++)
    if (task.moves[i * task.columns] < 0 || task.moves[i * task.columns] >= task.frame_count) return false;
  return true;
}

// Counters may be read while they are added to.
inline void count(int64_t& counter, int64_t more) { __atomic_fetch_add(&counter, more, __ATOMIC_RELAXED); }

// Adds the time it lives.
class Clock {
 public:
  explicit Clock(int64_t& nanoseconds) : nanoseconds_(nanoseconds) {}
  ~Clock() {
    count(nanoseconds_, std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count());
  }

 private:
  int64_t& nanoseconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace aa

extern "C" void aa_in_place(void* data) {
  using namespace aa;
  auto& task = *(aa_in_place_task*)data;
  count(task.calls, 1);
  if (task.words[0] == 0) return;
  Clock clock(task.nanoseconds);
  try {
    if (!is_sound(task)) {
      *task.fault = AA_DAMAGED;
      return;
    }
    if (!compute_in_place(task)) *task.fault = AA_NONFINITE;
    count(task.experts, task.words[0]);
  } catch (...) {
    *task.fault = AA_NO_MEMORY;
  }
}

extern "C" void aa_stage(void* data) {
  using namespace aa;
  auto& task = *(aa_stage_task*)data;
  count(task.calls, 1);
  const int64_t moves = task.count[0];
  if (moves == 0) return;
  Clock clock(task.nanoseconds);
  try {
    if (!is_sound(task)) {
      *task.fault = AA_DAMAGED;
      return;
    }
    copy_blobs(task, moves);
    count(task.blobs, moves);
    count(task.bytes, moves * task.blob_bytes);
  } catch (...) {
    *task.fault = AA_NO_MEMORY;
  }
}
