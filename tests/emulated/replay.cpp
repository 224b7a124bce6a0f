// Replays recorded calls of the kernels and compares every output bit with the recorded one.
//   replay CASES [THREADS...]
// A file of cases is a run of records: op, number of arrays, then each array as its length in bytes and its bytes.
// tests/emulated/cases.py writes them. Prints one line per thread count; exits 1 on any difference.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

#include "../../kernels/cpu/src/abi.h"

namespace {

enum Op { RMS_NORM = 1, LINEAR, SWIGLU, EXPERTS, ROUTE, QUERY_KEY_VALUE, PAGED_ATTENTION, HEAD };

using Bytes = std::vector<uint8_t>;

struct Record {
  uint64_t op;
  std::vector<Bytes> arrays;
  size_t next = 0;

  Bytes& take() { return arrays.at(next++); }
  template <class T>
  T* pointer() {
    Bytes& bytes = take();
    return bytes.empty() ? nullptr : reinterpret_cast<T*>(bytes.data());
  }
  const int64_t* ints() { return pointer<int64_t>(); }
  const float* floats() { return pointer<float>(); }
};

// A matrix is an array of ten numbers, then its bytes: as aa_matrix, the pointers as offsets.
aa_matrix matrix(Record& record, bool in_blob = false) {
  const int64_t* n = record.ints();
  const uint8_t* base = in_blob ? nullptr : record.pointer<uint8_t>();
  aa_matrix m{};
  m.bits = static_cast<int32_t>(n[0]);
  m.group = static_cast<int32_t>(n[1]);
  m.scale_is_fp16 = static_cast<int32_t>(n[2]);
  m.partials = static_cast<int32_t>(n[3]);
  m.rows = n[4];
  m.columns = n[5];
  m.weights = base + n[6];
  m.scales = base + n[7];
  m.has_zeros = static_cast<int32_t>(n[9]);
  m.zeros = n[9] ? base + n[8] : nullptr;
  return m;
}

bool same(Record& record, const void* made) {
  const Bytes& wanted = record.take();
  return std::memcmp(wanted.data(), made, wanted.size()) == 0;
}

// An output, filled with a pattern that no result has, so that what is not written shows.
Bytes output(const Record& record, size_t behind) {
  return Bytes(record.arrays.at(record.next + behind).size(), 0xA5);
}

template <class T>
T* as(Bytes& bytes) {
  return reinterpret_cast<T*>(bytes.data());
}

bool rms_norm(Record& r) {
  const int64_t* n = r.ints();
  const float eps = *r.floats();
  const float *x = r.floats(), *weight = r.floats();
  Bytes out = output(r, 0);
  aa_rms_norm(x, weight, static_cast<int>(n[0]), eps, n[1], n[2], as<float>(out));
  return same(r, out.data());
}

bool linear(Record& r) {
  const int64_t* n = r.ints();
  const float* x = r.floats();
  const aa_matrix m = matrix(r);
  const float* residual = r.floats();
  Bytes out = output(r, 0);
  const int status = aa_linear(x, n[0], &m, residual, as<float>(out));
  return status == n[1] && (status != AA_OK || same(r, out.data()));
}

bool swiglu(Record& r) {
  const int64_t* n = r.ints();
  const float* x = r.floats();
  const aa_matrix gate_up = matrix(r), down = matrix(r);
  const float* residual = r.floats();
  Bytes out = output(r, 0);
  return aa_swiglu(x, n[0], &gate_up, &down, residual, as<float>(out)) == AA_OK && same(r, out.data());
}

bool experts(Record& r) {
  const int64_t* n = r.ints();  // T, K, E, round_bf16, bytes of a blob, where a second wave starts
  const float* x = r.floats();
  const int64_t* ids = r.ints();
  const float* weights = r.floats();
  uint8_t* pool = r.pointer<uint8_t>();
  const aa_matrix gate_up = matrix(r, true), down = matrix(r, true), shared_gate_up = matrix(r), shared_down = matrix(r);
  const float* residual = r.floats();
  std::vector<int64_t> blobs;
  for (int64_t e = 0; e < n[2]; ++e) blobs.push_back(reinterpret_cast<int64_t>(pool + e * n[4]));
  Bytes out = output(r, 0);
  float* y = as<float>(out);
  const int first = aa_experts(x, n[0], ids, weights, n[1], blobs.data(), n[2], 0, n[5], 0, &gate_up, &down, nullptr,
                               nullptr, static_cast<int>(n[3]), nullptr, y);
  const int second = aa_experts(x, n[0], ids, weights, n[1], blobs.data(), n[2], n[5], n[2], n[5] > 0, &gate_up, &down,
                                &shared_gate_up, &shared_down, static_cast<int>(n[3]), residual, y);
  return first == AA_OK && second == AA_OK && same(r, out.data());
}

bool route(Record& r) {
  const int64_t* n = r.ints();  // T, M, weight_is_bf16, E, K, groups, kept
  const float scale = *r.floats();
  const float* x = r.floats();
  const void* weight = r.pointer<uint8_t>();
  const float* bias = r.floats();
  Bytes ids = output(r, 0), weights = output(r, 1);
  aa_route(x, n[0], n[1], weight, static_cast<int>(n[2]), bias, n[3], n[4], n[5], n[6], scale, as<int64_t>(ids),
           as<float>(weights));
  const bool ids_same = same(r, ids.data());
  return same(r, weights.data()) && ids_same;
}

bool query_key_value(Record& r) {
  const int64_t* n = r.ints();  // T, H, G, D, half, cache_is_bf16, block_size
  const float eps = *r.floats();
  const float *x = r.floats(), *norm = r.floats();
  const aa_matrix m = matrix(r);
  const float *head_norm = r.floats(), *cos = r.floats(), *sin = r.floats();
  const int64_t* slots = r.ints();
  Bytes keys = r.take(), values = r.take(), q = output(r, 0);
  const int status = aa_query_key_value(x, n[0], norm, eps, &m, head_norm, n[1], n[2], n[3], cos, sin, n[4], slots, keys.data(),
                                        values.data(), static_cast<int>(n[5]), n[6], as<float>(q));
  const bool q_same = same(r, q.data()), keys_same = same(r, keys.data());
  return same(r, values.data()) && q_same && keys_same && status == AA_OK;
}

bool paged_attention(Record& r) {
  const int64_t* n = r.ints();  // T, H, G, D, cache_is_bf16, block_size, S
  const float scale = *r.floats();
  const float* q = r.floats();
  const void *keys = r.pointer<uint8_t>(), *values = r.pointer<uint8_t>();
  const int32_t *spans = r.pointer<int32_t>(), *table = r.pointer<int32_t>();
  Bytes out = output(r, 0);
  aa_paged_attention(q, n[0], n[1], n[2], n[3], keys, values, static_cast<int>(n[4]), n[5], spans, n[6], table, scale,
                     as<float>(out));
  return same(r, out.data());
}

bool head(Record& r) {
  const int64_t* n = r.ints();  // R, size, count, columns of the masks; then the number of seen ids of each row, -1 for no mask
  const float* x = r.floats();
  const aa_matrix m = matrix(r);
  uint8_t* masks = r.pointer<uint8_t>();
  const int64_t* has_mask = r.ints();
  const int64_t *seen = r.ints(), *seen_count = r.ints();
  const float *penalty = r.floats(), *temperature = r.floats();
  std::vector<int64_t> allowed, seen_at;
  for (int64_t i = 0, at = 0; i < n[0]; at += seen_count[i++]) {
    allowed.push_back(has_mask[i] ? reinterpret_cast<int64_t>(masks + i * n[3]) : 0);
    seen_at.push_back(seen_count[i] ? reinterpret_cast<int64_t>(seen + at) : 0);
  }
  Bytes scores = output(r, 0), ids = output(r, 1), best = output(r, 2), totals = output(r, 3);
  const int status = aa_head(x, n[0], &m, n[1], allowed.data(), seen_at.data(), seen_count, penalty, temperature, n[2],
                             as<float>(scores), as<int64_t>(ids), as<float>(best), as<double>(totals));
  const bool scores_same = same(r, scores.data()), ids_same = same(r, ids.data()), best_same = same(r, best.data());
  return same(r, totals.data()) && scores_same && ids_same && best_same && status == AA_OK;
}

bool replay(Record& r) {
  r.next = 0;
  switch (r.op) {
    case RMS_NORM: return rms_norm(r);
    case LINEAR: return linear(r);
    case SWIGLU: return swiglu(r);
    case EXPERTS: return experts(r);
    case ROUTE: return route(r);
    case QUERY_KEY_VALUE: return query_key_value(r);
    case PAGED_ATTENTION: return paged_attention(r);
    case HEAD: return head(r);
  }
  std::fprintf(stderr, "there is no op %d\n", static_cast<int>(r.op));
  std::exit(2);
}

std::vector<Record> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<Record> records;
  uint64_t header[2], size;
  while (file.read(reinterpret_cast<char*>(header), sizeof header)) {
    Record record{header[0], {}, 0};
    for (uint64_t i = 0; i < header[1]; ++i) {
      file.read(reinterpret_cast<char*>(&size), sizeof size);
      Bytes bytes(size);
      file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
      record.arrays.push_back(std::move(bytes));
    }
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: replay CASES [THREADS...]\n"), 2;
  std::vector<Record> records = read(argv[1]);
  int failures = aa_probe() != 0;
  for (int i = 2; i < argc || i == 2; ++i) {
    const int threads = i < argc ? std::atoi(argv[i]) : 1;
    aa_set_threads(threads);
    int different = 0;
    for (size_t k = 0; k < records.size(); ++k)
      if (!replay(records[k])) std::printf("case %zu of op %d differs\n", k, static_cast<int>(records[k].op)), ++different;
    std::printf("%s, %d threads: %d of %zu cases differ, probe %d\n", aa_variant(), threads, different, records.size(), aa_probe());
    std::fflush(stdout);
    failures += different;
  }
  return records.empty() || failures ? 1 : 0;
}
