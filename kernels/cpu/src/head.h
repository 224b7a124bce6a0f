// The output head: scores of a vocabulary under a row's restrictions, the likeliest of them, and their total.
#pragma once
#include <vector>

#include "product.h"

namespace aa {

// What a row's scores must obey; null allows all, or has seen none.
struct RowRestriction {
  const uint8_t* allowed;  // [size], 0 or 1
  const int64_t* seen;
  int64_t seen_count;
  float penalty, temperature;

  bool allows_any(int64_t id, int64_t count) const {
    if (!allowed) return true;
    if (count < ROW_BLOCK) return std::any_of(allowed + id, allowed + id + count, [](uint8_t yes) { return yes != 0; });
    uint64_t halves[2];
    memcpy(halves, allowed + id, sizeof halves);
    return (halves[0] | halves[1]) != 0;
  }

  // Scores of ids from `id` on, with minus infinity where they are not allowed.
  void write(const float* scores, int64_t id, int64_t count, float* out) const {
    if (!allowed) {
      memcpy(out, scores, count * sizeof(float));
    } else {
      for (int64_t i = 0; i < count; i++) out[i] = allowed[id + i] ? scores[i] : -INFINITY;
    }
  }

  // Each seen id counts once, however often it is listed.
  void penalise(float* scores, int64_t size, std::vector<float>& changed) const {
    changed.resize(seen_count);
    for (int64_t i = 0; i < seen_count; i++) {
      if (!within(seen[i], size)) continue;
      float score = scores[seen[i]];
      changed[i] = score > 0 ? score / penalty : score * penalty;
    }
    for (int64_t i = 0; i < seen_count; i++)
      if (within(seen[i], size)) scores[seen[i]] = changed[i];
  }

  static bool within(int64_t id, int64_t size) { return 0 <= id && id < size; }
};

// One call, and where its scores go.
struct HeadCall {
  const aa_matrix& matrix;
  Operand x;
  int64_t size;
  const std::vector<RowRestriction>& rows;
  float* scores;  // [R, size]

  int64_t row_count() const { return rows.size(); }
  float* row(int64_t r) const { return scores + r * size; }

  // Scores of a block of ids for some rows.
  void score(int64_t block, const int64_t* wanted, int count) const {
    const uint8_t* operands[TILE];
    float results[TILE * ROW_BLOCK];
    for (int i = 0; i < count; i++) operands[i] = x.row(wanted[i]);
    product(matrix, block, operands, count, results, ROW_BLOCK);
    int64_t id = block * ROW_BLOCK, ids = std::min<int64_t>(ROW_BLOCK, size - id);
    for (int i = 0; i < count; i++) rows[wanted[i]].write(results + i * ROW_BLOCK, id, ids, row(wanted[i]) + id);
  }

  // The same for all rows; those that allow none of the ids have nothing computed.
  void score(int64_t block) const {
    int64_t id = block * ROW_BLOCK, ids = std::min<int64_t>(ROW_BLOCK, size - id), wanted[TILE];
    int count = 0;
    for (int64_t r = 0; r < row_count(); r++) {
      if (!rows[r].allows_any(id, ids)) {
        std::fill_n(row(r) + id, ids, -INFINITY);
        continue;
      }
      wanted[count++] = r;
      if (count < TILE) continue;
      score(block, wanted, count);
      count = 0;
    }
    if (count) score(block, wanted, count);
  }

  void score_all() const {
    int64_t blocks = (size + ROW_BLOCK - 1) / ROW_BLOCK, each = blocks_per_unit(matrix, row_count());
    parallel((blocks + each - 1) / each, [&](int64_t unit, int) {
      for (int64_t block = unit * each; block < std::min(blocks, (unit + 1) * each); block++) score(block);
    });
  }
};

// An integer that is larger for a higher score, and among equals for a lower id. A NaN is highest; zeros are equal.
AA_INLINE uint64_t rank(float score, int64_t id) {
  uint32_t u = 0;
  if (score != 0) memcpy(&u, &score, sizeof u);
  uint32_t order = score != score ? UINT32_MAX : u & 0x80000000 ? ~u : u | 0x80000000;
  return (uint64_t)order << 32 | (uint32_t)~id;
}

AA_INLINE int64_t id_of(uint64_t rank) { return (uint32_t)~rank; }

AA_INLINE bool any(const I16& mask) {
  IntRegister all = mask.r[0];
  for (int i = 1; i < PIECES; i++) all |= mask.r[i];
#if defined(AA_AVX512)
  return _mm512_test_epi32_mask((__m512i)all, (__m512i)all) != 0;
#elif defined(AA_AVX2)
  return !_mm256_testz_si256((__m256i)all, (__m256i)all);
#else
  uint64_t halves[2];
  memcpy(halves, &all, sizeof halves);
  return (halves[0] | halves[1]) != 0;
#endif
}

// Keeps the highest `count` of `ranks`, in any order.
inline void keep_highest(std::vector<uint64_t>& ranks, int64_t count) {
  if ((int64_t)ranks.size() <= count) return;
  std::nth_element(ranks.begin(), ranks.begin() + count - 1, ranks.end(), std::greater<uint64_t>());
  ranks.resize(count);
}

// Adds to `ranks` the highest `count` of the scores of ids [from, to), and perhaps others.
inline void collect_highest(const float* scores, int64_t from, int64_t to, int64_t count, std::vector<uint64_t>& ranks) {
  const size_t full = 2 * count + LANES;
  bool bounded = false;
  float bound = 0;
  for (int64_t id = from; id < to; id += LANES) {
    int64_t n = std::min<int64_t>(LANES, to - id);
    if (bounded && n == LANES) {
      F16 some = load(scores + id), limit = set(bound);
      // A NaN is neither below the bound nor equal to it.
      if (!any((less(some, limit) | equal(some, limit)) ^ set(-1))) continue;
    }
    for (int64_t i = id; i < id + n; i++)
      if (!bounded || !(scores[i] <= bound)) ranks.push_back(rank(scores[i], i));
    if (ranks.size() < full) continue;
    keep_highest(ranks, count);
    bounded = true;
    bound = scores[id_of(ranks[count - 1])];
  }
  keep_highest(ranks, count);
}

// Ids that one unit of work looks through.
constexpr int64_t SEARCH_IDS = 16384;

// The likeliest `count` ids of every row, highest first, and their scores.
inline void choose_candidates(const HeadCall& call, int64_t count, int64_t* ids, float* scores) {
  static std::vector<std::vector<uint64_t>> found;
  int64_t parts = (call.size + SEARCH_IDS - 1) / SEARCH_IDS;
  if ((int64_t)found.size() < call.row_count() * parts) found.resize(call.row_count() * parts);
  parallel(call.row_count() * parts, [&](int64_t unit, int) {
    int64_t from = unit % parts * SEARCH_IDS;
    found[unit].clear();
    collect_highest(call.row(unit / parts), from, std::min(call.size, from + SEARCH_IDS), count, found[unit]);
  });
  parallel(call.row_count(), [&](int64_t r, int) {
    std::vector<uint64_t>& all = found[r * parts];
    for (int64_t part = 1; part < parts; part++)
      all.insert(all.end(), found[r * parts + part].begin(), found[r * parts + part].end());
    std::partial_sort(all.begin(), all.begin() + count, all.end(), std::greater<uint64_t>());
    for (int64_t i = 0; i < count; i++) {
      ids[r * count + i] = id_of(all[i]);
      scores[r * count + i] = call.row(r)[ids[r * count + i]];
    }
  });
}

// Ids whose shares of a total are added in fp32.
constexpr int64_t TOTAL_CHUNK = 1024;

// lanes(exp((score - top) / temperature)) of `count` ids from `id` on.
inline float chunk_total(const RowRestriction& row, const float* scores, int64_t id, int64_t count, float top) {
  F16 total{}, temperature = set(row.temperature);
  for (int64_t i = 0; i < count; i += LANES) {
    int64_t n = std::min<int64_t>(LANES, count - i);
    float terms[LANES] = {};
    F16 some = n == LANES ? load(scores + id + i) : load_first(scores + id + i, n);
    store_first(terms, exp((some - set(top)) / temperature), n);
    if (row.allowed)
      for (int64_t j = 0; j < n; j++) terms[j] = row.allowed[id + i + j] ? terms[j] : 0.0f;
    total += load(terms);
  }
  return fold(total);
}

// The total of every row whose temperature asks for one; `best` [R, count] has each row's highest score first.
inline void add_totals(const HeadCall& call, const float* best, int64_t count, double* totals) {
  static Scratch scratch;
  int64_t chunks = (call.size + TOTAL_CHUNK - 1) / TOTAL_CHUNK;
  float* sums = scratch.at_least<float>(call.row_count() * chunks);
  parallel(call.row_count() * chunks, [&](int64_t unit, int) {
    int64_t r = unit / chunks, id = unit % chunks * TOTAL_CHUNK, n = std::min(TOTAL_CHUNK, call.size - id);
    if (call.rows[r].temperature == 0) return;
    sums[unit] = chunk_total(call.rows[r], call.row(r), id, n, best[r * count]);
  });
  for (int64_t r = 0; r < call.row_count(); r++) {
    totals[r] = 0;
    if (call.rows[r].temperature == 0) continue;
    for (int64_t chunk = 0; chunk < chunks; chunk++) totals[r] = totals[r] + (double)sums[r * chunks + chunk];
  }
}

}  // namespace aa

extern "C" int aa_head(const float* x, int64_t R, const aa_matrix* matrix, int64_t size, const int64_t* allowed,
                       const int64_t* seen, const int64_t* seen_count, const float* penalty, const float* temperature,
                       int64_t count, float* all_scores, int64_t* ids, float* scores, double* totals) {
  using namespace aa;
  static Scratch scratch;
  static std::vector<RowRestriction> rows;
  static std::vector<float> changed;
  Call call;
  std::atomic<bool> nonfinite{false};
  Operand operand = prepare(x, R, *matrix, scratch, nonfinite);
  if (nonfinite) return AA_NONFINITE;
  rows.clear();
  for (int64_t r = 0; r < R; r++)
    rows.push_back({(const uint8_t*)allowed[r], (const int64_t*)seen[r], seen_count[r], penalty[r], temperature[r]});
  HeadCall head{*matrix, operand, size, rows, all_scores};
  head.score_all();
  for (int64_t r = 0; r < R; r++)
    if (rows[r].seen) rows[r].penalise(head.row(r), size, changed);
  choose_candidates(head, count, ids, scores);
  add_totals(head, scores, count, totals);
  return AA_OK;
}
