// The router: scores of all experts, and the choice of a few.
#pragma once
#include <vector>

#include "product.h"

namespace aa {

// Whether a comes before b in descending order, where a NaN comes first and equals keep their order.
AA_INLINE bool before(float a, float b) { return a > b || (a != a && b == b); }

// The `most` highest of what it is offered, highest first, equals in order of arrival.
class Best {
 public:
  void start(int64_t most) {
    ids_.clear();
    values_.clear();
    most_ = most;
  }

  void offer(float value, int64_t id) {
    if ((int64_t)ids_.size() == most_) {
      if (!before(value, values_.back())) return;
      ids_.pop_back();
      values_.pop_back();
    }
    size_t place = values_.size();
    while (place > 0 && before(value, values_[place - 1])) place--;
    ids_.insert(ids_.begin() + place, id);
    values_.insert(values_.begin() + place, value);
  }

  std::vector<int64_t>& ids() { return ids_; }
  const std::vector<float>& values() const { return values_; }

 private:
  std::vector<int64_t> ids_;
  std::vector<float> values_;
  int64_t most_ = 0;
};

// Which experts a token goes to, from its scores. One per thread: it keeps its memory.
struct Selection {
  int64_t E, K, groups, kept;
  float scale;
  Best best, pair, strongest;
  std::vector<float> choices;

  void mask_weak_groups() {
    int64_t size = E / groups;
    strongest.start(kept);
    for (int64_t g = 0; g < groups; g++) {
      pair.start(2);
      for (int64_t e = g * size; e < (g + 1) * size; e++) pair.offer(choices[e], e);
      float strength = 0;
      for (float value : pair.values()) strength = strength + value;
      strongest.offer(strength, g);
    }
    std::vector<int64_t>& stay = strongest.ids();
    for (int64_t g = 0; g < groups; g++)
      if (std::find(stay.begin(), stay.end(), g) == stay.end())
        std::fill_n(choices.begin() + g * size, size, -INFINITY);
  }

  void run(const float* scores, const float* bias, int64_t* ids, float* weights) {
    choices.resize(E);
    for (int64_t e = 0; e < E; e++) choices[e] = scores[e] + bias[e];
    if (kept < groups) mask_weak_groups();
    best.start(K);
    for (int64_t e = 0; e < E; e++) best.offer(choices[e], e);
    std::sort(best.ids().begin(), best.ids().end());
    float total = 0;
    for (int64_t k = 0; k < K; k++) total = total + scores[ids[k] = best.ids()[k]];
    for (int64_t k = 0; k < K; k++) {
      float score = scores[ids[k]];
      weights[k] = (K > 1 ? score / (total + 1e-20f) : score) * scale;
    }
  }
};

inline void sigmoid_row(float* row, int64_t E) {
  int64_t whole = E / LANES * LANES;
  for (int64_t e = 0; e < whole; e += LANES) store(row + e, sigmoid(load(row + e)));
  if (whole < E) store_first(row + whole, sigmoid(load_first(row + whole, E - whole)), E - whole);
}

}  // namespace aa

extern "C" int aa_route(const float* x, int64_t T, int64_t M, const void* weight, int weight_is_bf16, const float* bias,
                        int64_t E, int64_t K, int64_t groups, int64_t groups_kept, float scale, int64_t* ids,
                        float* weights) {
  using namespace aa;
  static Scratch scratch;
  static std::vector<Selection> selections;
  Call call;
  float* scores = scratch.at_least<float>(T * E);
  aa_matrix matrix{weight_is_bf16 ? 16 : 32, 1, 0, 1, E, M, (const uint8_t*)weight, nullptr, nullptr, 0, 0};
  linear(matrix, {(const uint8_t*)x, M * (int64_t)sizeof(float)}, T, nullptr, scores);

  selections.resize(threads());
  for (Selection& selection : selections)
    selection.E = E, selection.K = K, selection.groups = groups, selection.kept = groups_kept, selection.scale = scale;
  parallel(T, [&](int64_t t, int thread) {
    sigmoid_row(scores + t * E, E);
    selections[thread].run(scores + t * E, bias, ids + t * K, weights + t * K);
  });
  return AA_OK;
}
