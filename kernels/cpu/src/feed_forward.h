// Feed-forward networks, one or many at a time: h = silu(gate x) * up x, then down h, combined in a fixed order.
#pragma once
#include <vector>

#include "product.h"

namespace aa {

// One network and the rows that go through it.
struct Network {
  aa_matrix gate_up, down;
  Operand x;
  const int64_t* tokens;  // row of x and of the output, for each of `count` rows; null where they are the same
  const float* weights;   // what each row counts for; null where the network is not routed
  int64_t first, count;   // rows of h

  int64_t token(int64_t row) const { return tokens ? tokens[row] : row; }
};

// Some columns of h, for some rows of a network.
struct HiddenUnit {
  const Network* network;
  int64_t column, row, rows;
};

// Rows of h, as the down matrix takes them.
struct Hidden {
  explicit Hidden(const aa_matrix& down) : quantised(is_quantised(down)), width(down.columns) {
    span = quantised ? down.group : 64;
    stride = quantised ? record_bytes(width, down.group) : (width + LANES - 1) / LANES * LANES * (int64_t)sizeof(float);
  }

  bool quantised;
  int64_t width, span, stride;
};

// Columns of h that one unit makes, at most.
constexpr int64_t WIDEST = 128;

// Blocks of `m` that hold rows [from, to), for a tile of tokens: at[t * stride] is row `from` rounded down to a block.
inline void product_of_rows(const aa_matrix& m, int64_t from, int64_t to, const uint8_t* const* rows, int count, float* at,
                            int64_t stride) {
  for (int64_t block = from / ROW_BLOCK, column = 0; block * ROW_BLOCK < to; block++, column += ROW_BLOCK)
    product(m, block, rows, count, at + column, stride);
}

// False where h isn't finite and must be quantised.
inline bool make_hidden(const HiddenUnit& unit, const Hidden& hidden, uint8_t* h) {
  constexpr int64_t STRIDE = WIDEST + ROW_BLOCK;
  const Network& network = *unit.network;
  const int64_t F = hidden.width, begin = unit.column, end = std::min(F, begin + hidden.span);
  float gate[TILE * STRIDE] = {}, up[TILE * STRIDE] = {};
  bool finite = true;
  for (int64_t row = unit.row; row < unit.row + unit.rows; row += TILE) {
    int count = (int)std::min<int64_t>(TILE, unit.row + unit.rows - row);
    const uint8_t* rows[TILE];
    for (int t = 0; t < count; t++) rows[t] = network.x.row(network.token(row + t));
    product_of_rows(network.gate_up, begin, end, rows, count, gate, STRIDE);
    product_of_rows(network.gate_up, F + begin, F + end, rows, count, up, STRIDE);
    for (int t = 0; t < count; t++) {
      uint8_t* to = h + (network.first + row + t) * hidden.stride;
      float* values = hidden.quantised ? gate + t * STRIDE : (float*)to + begin;
      const float *g = gate + t * STRIDE, *u = up + t * STRIDE + (F + begin) % ROW_BLOCK;
      for (int64_t j = 0; j < end - begin; j += LANES) store(values + j, silu(load(g + j)) * load(u + j));
      if (hidden.quantised && !quantise_group(values, F, hidden.span, begin / hidden.span, to)) finite = false;
    }
  }
  return finite;
}

inline void list_units(const Network& network, const Hidden& hidden, std::vector<HiddenUnit>& units) {
  for (int64_t row = 0; row < network.count; row += CHUNK)
    for (int64_t column = 0; column < hidden.width; column += hidden.span)
      units.push_back({&network, column, row, std::min(CHUNK, network.count - row)});
}

// How rows of the networks become rows of the output.
struct Combination {
  bool routed, round_bf16, begun;
  const float* residual;  // [T, M], or null
  float* out;             // [T, M]; where begun it holds the sum over earlier networks

  // Output columns at `at`: after all routed networks, the shared one's y.
  void finish(int64_t at, const float* y, int64_t n) const {
    float* o = out + at;
    if (!routed) {
      memcpy(o, y, n * sizeof(float));
    } else if (round_bf16) {
      for (int64_t j = 0; j < n; j++) o[j] = round_to_bf16(round_to_bf16(o[j]) + round_to_bf16(y[j]));
    } else {
      for (int64_t j = 0; j < n; j++) o[j] = o[j] + y[j];
    }
    if (!residual) return;
    for (int64_t j = 0; j < n; j++) o[j] = residual[at + j] + o[j];
  }
};

constexpr int64_t MOST_DOWN_BLOCKS = 8;

// Blocks [first, last) of the output columns that one network adds to.
inline void add_down(const Network& network, const Hidden& hidden, const uint8_t* h, int64_t first, int64_t last,
                     const Combination& combination) {
  constexpr int64_t STRIDE = MOST_DOWN_BLOCKS * ROW_BLOCK;
  const int64_t M = network.down.rows, column = first * ROW_BLOCK, n = std::min(M, last * ROW_BLOCK) - column;
  float y[TILE * STRIDE];
  for (int64_t row = 0; row < network.count; row += TILE) {
    int count = (int)std::min<int64_t>(TILE, network.count - row);
    const uint8_t* rows[TILE];
    for (int t = 0; t < count; t++) rows[t] = h + (network.first + row + t) * hidden.stride;
    for (int64_t block = first; block < last; block++)
      product(network.down, block, rows, count, y + (block - first) * ROW_BLOCK, STRIDE);
    for (int t = 0; t < count; t++) {
      int64_t at = network.token(row + t) * M + column;
      if (!network.weights) {
        combination.finish(at, y + t * STRIDE, n);
        continue;
      }
      float weight = network.weights[row + t], *o = combination.out + at;
      for (int64_t j = 0; j < n; j++) o[j] = o[j] + weight * y[t * STRIDE + j];
    }
  }
}

// Routed networks, in ascending id, all with one layout, then the shared one, which every token goes through; null
// where the sum over the routed ones is to be gone on with.
inline bool run_networks(const std::vector<Network>& routed, const Network* shared, int64_t T, const Combination& combination) {
  static Scratch hidden_rows, shared_hidden_rows;
  static std::vector<HiddenUnit> units;
  const aa_matrix& of_first = routed.empty() ? shared->down : routed[0].down;
  const aa_matrix& of_last = shared ? shared->down : of_first;
  Hidden of_shared(of_last), of_routed(of_first);
  int64_t M = of_last.rows, start = routed.empty() ? 0 : routed[0].first;
  int64_t pairs = routed.empty() ? 0 : routed.back().first + routed.back().count - start;
  // Rows are counted from the first of these networks on.
  uint8_t* h = hidden_rows.at_least<uint8_t>(pairs * of_routed.stride) - start * of_routed.stride;
  uint8_t* shared_h = shared ? shared_hidden_rows.at_least<uint8_t>(T * of_shared.stride) : nullptr;
  std::atomic<bool> finite{true};

  units.clear();
  if (shared) list_units(*shared, of_shared, units);
  const int64_t shared_units = units.size();
  for (const Network& network : routed) list_units(network, of_routed, units);
  parallel(units.size(), [&](int64_t i, int) {
    bool good = i < shared_units ? make_hidden(units[i], of_shared, shared_h) : make_hidden(units[i], of_routed, h);
    if (!good) finite.store(false, std::memory_order_relaxed);
  });

  int64_t blocks = row_blocks(of_last);
  int64_t each = std::max<int64_t>(1, std::min(MOST_DOWN_BLOCKS, blocks / (8 * threads())));
  parallel((blocks + each - 1) / each, [&](int64_t unit, int) {
    int64_t first = unit * each, last = std::min(first + each, blocks);
    int64_t column = first * ROW_BLOCK, n = std::min(M, last * ROW_BLOCK) - column;
    if (combination.routed && !combination.begun)
      for (int64_t t = 0; t < T; t++) std::fill_n(combination.out + t * M + column, n, 0.0f);
    // Ascending networks, and so ascending ids for every token.
    for (const Network& network : routed) add_down(network, of_routed, h, first, last, combination);
    if (shared) add_down(*shared, of_shared, shared_h, first, last, combination);
  });
  return finite.load();
}

// Routed rows in order of expert, and of token within one.
struct Assignment {
  std::vector<int64_t> starts, tokens;
  std::vector<float> weights;

  void sort(const int64_t* ids, const float* of, int64_t T, int64_t K, int64_t E) {
    starts.assign(E + 1, 0);
    tokens.resize(T * K);
    weights.resize(T * K);
    for (int64_t i = 0; i < T * K; i++) starts[ids[i] + 1]++;
    for (int64_t e = 0; e < E; e++) starts[e + 1] += starts[e];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < T * K; i++) {
      int64_t place = next[ids[i]]++;
      tokens[place] = i / K;
      weights[place] = of[i];
    }
  }
};

// A layout's offsets, as addresses in a blob.
inline aa_matrix within(const aa_matrix& layout, int64_t blob) {
  aa_matrix m = layout;
  m.weights = (const uint8_t*)(blob + (int64_t)layout.weights);
  m.scales = (const uint8_t*)(blob + (int64_t)layout.scales);
  m.zeros = layout.has_zeros ? (const uint8_t*)(blob + (int64_t)layout.zeros) : nullptr;
  return m;
}

// Whether both take the same rows of x.
inline bool take_alike(const aa_matrix& a, const aa_matrix& b) {
  return is_quantised(a) == is_quantised(b) && (!is_quantised(a) || a.group == b.group);
}

}  // namespace aa

extern "C" int aa_swiglu(const float* x, int64_t T, const aa_matrix* gate_up, const aa_matrix* down, const float* residual,
                         float* out) {
  using namespace aa;
  static Scratch scratch;
  Call call;
  std::atomic<bool> nonfinite{false};
  Network network{*gate_up, *down, prepare(x, T, *gate_up, scratch, nonfinite), nullptr, nullptr, 0, T};
  bool finite = run_networks({}, &network, T, {false, false, false, residual, out});
  return nonfinite || !finite ? AA_NONFINITE : AA_OK;
}

extern "C" int aa_experts(const float* x, int64_t T, const int64_t* ids, const float* weights, int64_t K, const int64_t* blobs,
                          int64_t E, int64_t first_expert, int64_t stop, int begun, const aa_matrix* gate_up, const aa_matrix* down,
                          const aa_matrix* shared_gate_up, const aa_matrix* shared_down, int round_bf16,
                          const float* residual, float* out) {
  using namespace aa;
  static Scratch scratch, shared_scratch;
  static Assignment assignment;
  static std::vector<Network> routed;
  Call call;
  std::atomic<bool> nonfinite{false};
  Operand rows = prepare(x, T, *gate_up, scratch, nonfinite);
  bool alike = !shared_gate_up || take_alike(*gate_up, *shared_gate_up);
  Operand shared_rows = alike ? rows : prepare(x, T, *shared_gate_up, shared_scratch, nonfinite);
  assignment.sort(ids, weights, T, K, E);
  routed.clear();
  for (int64_t e = first_expert; e < stop; e++) {
    int64_t first = assignment.starts[e], count = assignment.starts[e + 1] - first;
    if (count == 0) continue;
    if (blobs[e] == 0) return AA_ABSENT;
    routed.push_back({within(*gate_up, blobs[e]), within(*down, blobs[e]), rows, &assignment.tokens[first],
                      &assignment.weights[first], first, count});
  }
  Combination combination{true, round_bf16 != 0, begun != 0, residual, out};
  bool finite = true;
  if (shared_gate_up) {
    Network shared{*shared_gate_up, *shared_down, shared_rows, nullptr, nullptr, 0, T};
    finite = run_networks(routed, &shared, T, combination);
  } else if (!routed.empty()) {
    finite = run_networks(routed, nullptr, T, combination);
  } else if (!begun) {
    std::fill_n(out, T * down->rows, 0.0f);
  }
  return nonfinite || !finite ? AA_NONFINITE : AA_OK;
}
