// Causal attention over cached keys and values, as docs/exact-experts.md defines it.
#pragma once
#include <vector>

#include "product.h"

namespace aa {

struct AttentionCall {
  const float* q;  // [T, H, D]
  int64_t H, G, D;
  const void *keys, *values;
  int64_t block_size;
  float scale;
  float* out;

  int64_t repeats() const { return H / G; }
  int64_t padded_width() const { return (D + LANES - 1) / LANES * LANES; }
  int64_t columns() const { return LANES * std::max(D, block_size); }
};

constexpr int64_t TILE_ROWS = 16;

// Consecutive rows of a sequence; the first sees `seen` keys, which lie in `blocks`, and each further row one more.
struct QueryTile {
  int64_t row, rows, seen;
  const int32_t* blocks;
};

// Queries that share a register block.
constexpr int MOST_QUERIES = REGISTER_BYTES == 64 ? 8 : 4;

// Scores that a thread keeps, so that a long context is taken with fewer queries at a time.
constexpr int64_t MOST_SCORES = 1 << 19;

// What will be read next, fetched while something else is computed, 16 numbers at a time. Null for nothing.
template <class Stored>
AA_INLINE void fetch(const Stored* ahead, int64_t i) {
  if (ahead) __builtin_prefetch(ahead + i * LANES, 0, 2);
}

// Sums that N queries make with C times 16 keys or dimensions side by side: few would wait for one another.
template <int N>
constexpr int MOST_COLUMNS = MOST_QUERIES / N;

// Scores of N queries [N, D] with C times 16 keys: a dimension of them is at keys + d * step.
template <class Cached, int N, int C>
AA_INLINE void score_keys(const float* queries, int64_t D, const typename Cached::Stored* keys, int64_t step,
                          const typename Cached::Stored* ahead, float* scores, int64_t stride) {
  F16 acc[N][C] = {};
  for (int64_t d = 0; d < D; d++) {
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      fetch(ahead, d * C + c);
      F16 key = Cached::load(keys + d * step + c * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) acc[i][c] += set(queries[i * D + d]) * key;
    }
  }
  for (int i = 0; i < N; i++)
    for (int c = 0; c < C; c++) store(scores + i * stride + c * LANES, acc[i][c]);
}

// Adds to acc [N, width] what N rows of shares make of C times 16 dimensions of `count` values, at values + j * step.
template <class Cached, int N, int C>
AA_INLINE void weigh_values(const float* shares, int64_t stride, const typename Cached::Stored* values, int64_t step,
                            int64_t count, const typename Cached::Stored* ahead, float* acc, int64_t width) {
  F16 part[N][C] = {};
  for (int64_t j = 0; j < count; j++) {
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      fetch(ahead, j * C + c);
      F16 value = Cached::load(values + j * step + c * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) part[i][c] += set(shares[i * stride + j]) * value;
    }
  }
  for (int i = 0; i < N; i++)
    for (int c = 0; c < C; c++) {
      float* to = acc + i * width + c * LANES;
      store(to, load(to) + part[i][c]);
    }
}

// Calls work(first, size as a constant) for blocks of queries, or of columns, that registers hold.
template <int N = MOST_QUERIES, class Work>
AA_INLINE void by_register_block(int64_t first, int64_t count, const Work& work) {
  for (; first + N <= count; first += N) work(first, std::integral_constant<int, N>());
  if constexpr (N > 1) by_register_block<N / 2>(first, count, work);
}

// Some queries of a tile that read one KV head, with their scores.
// Query i of the tile is head i % repeats, among those of the KV head, of row i / repeats.
template <class Cached>
class Queries {
 public:
  using Stored = typename Cached::Stored;

  Queries(const AttentionCall& call, const QueryTile& tile, int64_t g, int64_t from, int64_t to)
      : call_(call), tile_(tile), g_(g), from_(from), count_(to - from) {
    blocks_ = (seen(count_ - 1) + call.block_size - 1) / call.block_size;
    stride_ = blocks_ * call.block_size;
  }

  int64_t blocks() const { return blocks_; }

  // Floats that it keeps, in memory from here on.
  int64_t kept() const { return count_ * (stride_ + call_.D); }

  void start(float* memory) {
    scores_ = memory;
    queries_ = scores_ + count_ * stride_;
    for (int64_t i = 0; i < count_; i++)
      for (int64_t d = 0; d < call_.D; d++) queries_[i * call_.D + d] = call_.q[place(i) + d] * call_.scale;
  }

  // Scores with the keys of a block that any query sees. `columns` is room for 16 of them, a thread's own.
  void score(int64_t block, float* columns) {
    const int64_t D = call_.D, size = call_.block_size;
    const Stored *keys = stored(call_.keys, block), *next = stored(call_.keys, std::min(block + 1, blocks_ - 1));
    if (count_ <= MOST_QUERIES) return score_in_place(keys, next, block * size);
    for (int64_t at = 0; at < size && block * size + at < seen(count_ - 1); at += LANES) {
      for (int64_t d = 0; d < D; d++) store(columns + d * LANES, Cached::load(keys + d * size + at));
      score_column(columns, block * size + at);
    }
  }

  // Query i's highest score with blocks [first, last), minus infinity where it sees none of them.
  float highest(int64_t i, int64_t first, int64_t last) const {
    const float* row = scores_ + i * stride_;
    const int64_t end = std::min(seen(i), last * call_.block_size);
    F16 top = set(-INFINITY);
    for (int64_t j = first * call_.block_size; j < end; j += LANES) {
      F16 scores = load(row + j);
      if (end < j + LANES) scores = select(first_lanes(end - j), scores, set(-INFINITY));
      top = max(scores, top);
    }
    return largest(top);
  }

  // Makes query i's scores with a block its shares, and returns their sum.
  float share(int64_t i, int64_t block, float top) {
    const int64_t size = call_.block_size, left = seen(i) - block * size;
    float* row = scores_ + i * stride_ + block * size;
    F16 total{};
    for (int64_t at = 0; at < size; at += LANES) {
      F16 shares{};
      if (at < left) shares = exp(load(row + at) - set(top));
      if (at < left && left < at + LANES) shares = select(first_lanes(left - at), shares, zero());
      store(row + at, shares);
      total += shares;
    }
    return fold(total);
  }

  // Adds each query's weighted values of a block to sums [count, padded width].
  void weigh(int64_t block, float* sums, float* columns) {
    const int64_t D = call_.D, size = call_.block_size, width = call_.padded_width();
    const int64_t count = std::min(size, seen(count_ - 1) - block * size);
    const Stored *values = stored(call_.values, block), *next = stored(call_.values, std::min(block + 1, blocks_ - 1));
    const int64_t in_place = count_ <= MOST_QUERIES ? D / LANES : 0;
    weigh_in_place(values, next, block, in_place, sums, width);
    for (int64_t d = in_place * LANES; d < D; d += LANES) {
      for (int64_t j = 0; j < count; j++) store(columns + j * LANES, some(values + j * D + d, D - d));
      weigh_column(columns, block, sums + d, width);
    }
  }

  void finish(int64_t i, const float* sums, float total) const {
    for (int64_t d = 0; d < call_.D; d += LANES)
      store_first(call_.out + place(i) + d, load(sums + d) / set(total), std::min<int64_t>(LANES, call_.D - d));
  }

 private:
  int64_t seen(int64_t i) const { return tile_.seen + (from_ + i) / call_.repeats(); }

  // Where query i starts in q and its result in out.
  int64_t place(int64_t i) const {
    int64_t repeats = call_.repeats(), row = tile_.row + (from_ + i) / repeats;
    return (row * call_.H + g_ * repeats + (from_ + i) % repeats) * call_.D;
  }

  const Stored* stored(const void* cache, int64_t block) const {
    return (const Stored*)cache + (tile_.blocks[block] * call_.G + g_) * call_.D * call_.block_size;
  }

  static I16 first_lanes(int64_t count) {
    static const int32_t numbers[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return less(load(numbers), set((int32_t)count));
  }

  static F16 some(const Stored* at, int64_t count) {
    if (count >= LANES) return Cached::load(at);
    Stored lanes[LANES] = {};
    memcpy(lanes, at, count * sizeof(Stored));
    return Cached::load(lanes);
  }

  // Keys of a block from `first` on, read where they lie. What a register block doesn't see is left out.
  void score_in_place(const Stored* keys, const Stored* next, int64_t first) {
    const int64_t D = call_.D, size = call_.block_size;
    by_register_block(0, count_, [&](int64_t i, auto n) {
      const int64_t seen_here = std::min(size, seen(i + n - 1) - first);
      by_register_block<MOST_COLUMNS<n>>(0, (seen_here + LANES - 1) / LANES, [&](int64_t column, auto c) {
        const int64_t at = column * LANES;
        score_keys<Cached, n, c>(queries_ + i * D, D, keys + at, size, i == 0 ? next + at * D : nullptr,
                                 scores_ + i * stride_ + first + at, stride_);
      });
    });
  }

  // Queries that see none of these keys keep what they have: no share is made of it.
  void score_column(const float* keys, int64_t key) {
    by_register_block(0, count_, [&](int64_t i, auto n) {
      if (key < seen(i + n - 1))
        score_keys<FP32, n, 1>(queries_ + i * call_.D, call_.D, keys, LANES, nullptr, scores_ + i * stride_ + key,
                               stride_);
    });
  }

  // The first `columns` times 16 dimensions of a block's values, read where they lie.
  void weigh_in_place(const Stored* values, const Stored* next, int64_t block, int64_t columns, float* sums,
                      int64_t width) {
    const int64_t D = call_.D, size = call_.block_size;
    by_register_block(0, count_, [&](int64_t i, auto n) {
      const int64_t count = std::min(size, seen(i + n - 1) - block * size);
      if (count <= 0) return;
      by_register_block<MOST_COLUMNS<n>>(0, columns, [&](int64_t column, auto c) {
        const int64_t d = column * LANES;
        weigh_values<Cached, n, c>(scores_ + i * stride_ + block * size, stride_, values + d, D, count,
                                   i == 0 ? next + d * size : nullptr, sums + i * width + d, width);
      });
    });
  }

  // Keys that none of a register block's queries sees are left out: their shares are +0.
  void weigh_column(const float* values, int64_t block, float* sums, int64_t width) {
    const int64_t size = call_.block_size;
    by_register_block(0, count_, [&](int64_t i, auto n) {
      int64_t count = std::min(size, seen(i + n - 1) - block * size);
      if (count > 0)
        weigh_values<FP32, n, 1>(scores_ + i * stride_ + block * size, stride_, values, LANES, count, nullptr,
                                 sums + i * width, width);
    });
  }

  const AttentionCall& call_;
  const QueryTile& tile_;
  int64_t g_, from_, count_, blocks_, stride_;
  float *scores_ = nullptr, *queries_ = nullptr;
};

// All of a tile's queries that read one KV head, as many at a time as memory allows.
template <class Cached>
void attend(const AttentionCall& call, const QueryTile& tile, int64_t g, Scratch& scratch) {
  const int64_t all = tile.rows * call.repeats(), keys = tile.seen + tile.rows - 1 + call.block_size;
  const int64_t most = std::max<int64_t>(1, MOST_SCORES / keys / MOST_QUERIES) * MOST_QUERIES;
  for (int64_t from = 0; from < all; from += most) {
    const int64_t count = std::min(most, all - from), width = call.padded_width();
    Queries<Cached> queries(call, tile, g, from, from + count);
    float* sums = scratch.at_least<float>(count * width + call.columns() + queries.kept() + count);
    float* columns = sums + count * width;
    float* totals = columns + call.columns() + queries.kept();
    queries.start(columns + call.columns());
    for (int64_t block = 0; block < queries.blocks(); block++) queries.score(block, columns);
    for (int64_t i = 0; i < count; i++) {
      float top = queries.highest(i, 0, queries.blocks());
      totals[i] = 0;
      for (int64_t block = 0; block < queries.blocks(); block++) totals[i] = totals[i] + queries.share(i, block, top);
    }
    std::fill_n(sums, count * width, 0.0f);
    for (int64_t block = 0; block < queries.blocks(); block++) queries.weigh(block, sums, columns);
    for (int64_t i = 0; i < count; i++) queries.finish(i, sums + i * width, totals[i]);
  }
}

// The queries of one row that read one KV head, whose blocks are cut into parts for several threads.
template <class Cached>
struct SharedRow {
  Queries<Cached> queries;
  int64_t parts, repeats, width;
  // [blocks, repeats, width], [blocks, repeats], [parts, repeats]
  float *sums = nullptr, *totals = nullptr, *tops = nullptr;

  int64_t first(int64_t part) const { return part * queries.blocks() / parts; }
  int64_t memory() const { return queries.kept() + queries.blocks() * repeats * (width + 1) + parts * repeats; }

  void start(float* memory) {
    queries.start(memory);
    sums = memory + queries.kept();
    totals = sums + queries.blocks() * repeats * width;
    tops = totals + queries.blocks() * repeats;
  }

  void score(int64_t part, float* columns) {
    for (int64_t block = first(part); block < first(part + 1); block++) queries.score(block, columns);
    for (int64_t i = 0; i < repeats; i++) tops[part * repeats + i] = queries.highest(i, first(part), first(part + 1));
  }

  float top(int64_t i) const {
    float top = -INFINITY;
    for (int64_t part = 0; part < parts; part++) top = std::max(top, tops[part * repeats + i]);
    return top;
  }

  void weigh(int64_t part, float* columns) {
    for (int64_t block = first(part); block < first(part + 1); block++) {
      for (int64_t i = 0; i < repeats; i++) totals[block * repeats + i] = queries.share(i, block, top(i));
      std::fill_n(sums + block * repeats * width, repeats * width, 0.0f);
      queries.weigh(block, sums + block * repeats * width, columns);
    }
  }

  void finish() {
    for (int64_t i = 0; i < repeats; i++) {
      float total = 0, *row = sums + i * width;
      for (int64_t block = 0; block < queries.blocks(); block++) total = total + totals[block * repeats + i];
      for (int64_t block = 1; block < queries.blocks(); block++)
        for (int64_t d = 0; d < width; d++) row[d] = row[d] + row[block * repeats * width + d];
      queries.finish(i, row, total);
    }
  }
};

// Tiles of one row each, for more threads than there are rows and KV heads.
template <class Cached>
void attend_shared(const AttentionCall& call, const std::vector<QueryTile>& tiles, std::vector<Scratch>& scratches) {
  static Scratch scratch;
  std::vector<SharedRow<Cached>> rows;
  const int64_t parts = 2 * threads();
  int64_t needed = 0;
  for (const QueryTile& tile : tiles)
    for (int64_t g = 0; g < call.G; g++) {
      Queries<Cached> queries(call, tile, g, 0, call.repeats());
      rows.push_back({queries, parts, call.repeats(), call.padded_width()});
      needed += rows.back().memory();
    }
  float* memory = scratch.at_least<float>(needed);
  for (SharedRow<Cached>& row : rows) {
    row.start(memory);
    memory += row.memory();
  }
  auto columns = [&](int thread) { return scratches[thread].at_least<float>(call.columns()); };
  parallel(rows.size() * parts, [&](int64_t i, int thread) { rows[i / parts].score(i % parts, columns(thread)); });
  parallel(rows.size() * parts, [&](int64_t i, int thread) { rows[i / parts].weigh(i % parts, columns(thread)); });
  parallel(rows.size(), [&](int64_t i, int) { rows[i].finish(); });
}

// Each span's rows in tiles, the costliest first.
inline void list_tiles(const int32_t* spans, int64_t S, const int32_t* block_table, std::vector<QueryTile>& tiles) {
  tiles.clear();
  for (int64_t s = 0; s < S; s++) {
    const int32_t *span = spans + 4 * s, rows = span[1];
    for (int64_t row = (rows - 1) / TILE_ROWS * TILE_ROWS; row >= 0; row -= TILE_ROWS)
      tiles.push_back({span[0] + row, std::min(TILE_ROWS, rows - row), span[2] + row + 1, block_table + span[3]});
  }
}

template <class Cached>
void attention(const AttentionCall& call, const std::vector<QueryTile>& tiles) {
  static std::vector<Scratch> scratches;
  if ((int)scratches.size() < threads()) scratches.resize(threads());
  const int64_t count = tiles.size(), units = count * call.G;
  bool single = std::all_of(tiles.begin(), tiles.end(), [](const QueryTile& tile) { return tile.rows == 1; });
  if (single && units < threads()) return attend_shared<Cached>(call, tiles, scratches);
  parallel(units, [&](int64_t i, int thread) { attend<Cached>(call, tiles[i % count], i / count, scratches[thread]); });
}

}  // namespace aa

extern "C" int aa_paged_attention(const float* q, int64_t /*T*/, int64_t H, int64_t G, int64_t D, const void* keys,
                                  const void* values, int cache_is_bf16, int64_t block_size, const int32_t* spans,
                                  int64_t S, const int32_t* block_table, float scale, float* out) {
  using namespace aa;
  static std::vector<QueryTile> tiles;
  Call call;
  list_tiles(spans, S, block_table, tiles);
  AttentionCall attention_call{q, H, G, D, keys, values, block_size, scale, out};
  cache_is_bf16 ? attention<BF16>(attention_call, tiles) : attention<FP32>(attention_call, tiles);
  return AA_OK;
}
