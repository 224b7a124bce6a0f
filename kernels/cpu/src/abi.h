// What Python calls through ctypes. Every array is contiguous; floats are fp32 unless said otherwise.
// T tokens, M model width, F expert width, E experts, K experts per token, H query heads, G KV heads, D head width, V vocabulary.
#pragma once
#include <cstdint>

extern "C" {

// A matrix [rows, columns] as kernels/formats/matrix.py lays it out. In a layout whose blob comes later, the three
// pointers are offsets from the start of the blob.
struct aa_matrix {
  int32_t bits;           // 4 or 8: quantised; 16 or 32: floats, row by row
  int32_t group;          // columns that share a scale
  int32_t scale_is_fp16;  // else bf16; for bits 16 it tells what the weights are
  int32_t partials;       // 1, 2 or 4 accumulators
  int64_t rows, columns;
  const uint8_t* weights;
  const uint8_t* scales;
  const uint8_t* zeros;  // int8; null in a symmetric matrix (has_zeros tells it in a layout)
  int32_t has_zeros;
  int32_t padding;
};

// Results of every op, and the faults of a task: AA_DAMAGED where its tables name what is not there.
enum { AA_OK = 0, AA_NONFINITE = 1, AA_ABSENT = 2, AA_DAMAGED = 3, AA_NO_MEMORY = 4 };

// Experts that the host computes in a layer step of a GPU, as kernels/gpu/tables.py has them (InPlace); all in memory that
// the GPU wrote before the call and reads after it.
struct aa_in_place_task {
  const int32_t* words;   // experts, rows T; then for each expert its frame, and where its pairs start and stop
  const int32_t* pairs;   // pair p is row p / per_token of q
  const int8_t* q;        // [T, M]
  const float* scales;    // [T, M / G]
  float* outputs;         // [T per_token, M], by pair; not weighted
  int32_t* fault;         // set to one of the above, never to AA_OK
  int64_t frames;         // address of frame 0
  int64_t frame_count, blob_bytes;
  int64_t most_experts, most_rows, per_token;
  int64_t awake;          // nanoseconds for which threads wait for the next call before they sleep
  aa_matrix gate_up, down;  // layouts within a blob
  int64_t calls, experts, nanoseconds;  // counted up; the time is that of calls with experts
};

// Blobs that the host copies from frames into the rows of a ring that the GPU can read, row i for move i.
struct aa_stage_task {
  const int32_t* count;  // of moves
  const int32_t* moves;  // [most, columns], the frame first
  uint8_t* ring;         // [most, blob_bytes]
  int32_t* fault;        // as above
  int64_t frames;        // address of frame 0
  int64_t frame_count, blob_bytes;
  int64_t most, columns;
  int64_t calls, blobs, bytes, nanoseconds;  // counted up
};

const char* aa_variant();           // the instruction set this library was compiled for
int aa_probe();                     // 0 when the compiler kept every rounding, else which one it lost
void aa_set_threads(int threads);   // of the pool, the caller included
int aa_threads();

int aa_rms_norm(const float* x, const float* weight, int weight_rows, float eps, int64_t T, int64_t D, float* out);

int aa_linear(const float* x, int64_t T, const aa_matrix* matrix, const float* residual, float* out);

int aa_swiglu(const float* x, int64_t T, const aa_matrix* gate_up, const aa_matrix* down, const float* residual, float* out);

// blobs [E] are addresses, 0 for one that is not in memory; gate_up and down are layouts within a blob. Only experts
// [first, stop) are computed: `begun` says that out holds the sum over lower ones, and without a shared network (null)
// out is left as that sum.
int aa_experts(const float* x, int64_t T, const int64_t* ids, const float* weights, int64_t K, const int64_t* blobs, int64_t E,
               int64_t first, int64_t stop, int begun, const aa_matrix* gate_up, const aa_matrix* down,
               const aa_matrix* shared_gate_up, const aa_matrix* shared_down, int round_bf16, const float* residual, float* out);

int aa_route(const float* x, int64_t T, int64_t M, const void* weight, int weight_is_bf16, const float* bias, int64_t E,
             int64_t K, int64_t groups, int64_t groups_kept, float scale, int64_t* ids, float* weights);

int aa_query_key_value(const float* x, int64_t T, const float* input_norm, float eps, const aa_matrix* matrix,
                       const float* head_norm, int64_t H, int64_t G, int64_t D, const float* cos, const float* sin,
                       int64_t half, const int64_t* slots, void* keys, void* values, int cache_is_bf16, int64_t block_size,
                       float* q);

int aa_paged_attention(const float* q, int64_t T, int64_t H, int64_t G, int64_t D, const void* keys, const void* values,
                       int cache_is_bf16, int64_t block_size, const int32_t* spans, int64_t S, const int32_t* block_table,
                       float scale, float* out);

// allowed [R] and seen [R] are addresses, 0 for none; all_scores [R, size], ids and scores [R, count], totals [R].
int aa_head(const float* x, int64_t R, const aa_matrix* matrix, int64_t size, const int64_t* allowed, const int64_t* seen,
            const int64_t* seen_count, const float* penalty, const float* temperature, int64_t count, float* all_scores,
            int64_t* ids, float* scores, double* totals);

// For cuLaunchHostFunc, with the address of a task.
void aa_in_place(void* task);
void aa_stage(void* task);
}
