// Stands for libcuda.so.1 in tests: one device, one context, host functions on a thread of their own, and refusals to order.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef void (*CUhostFn)(void*);

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, ALREADY = 712, NOT_REGISTERED = 713 };

// A stream that is being captured.
#define CAPTURED ((void*)0xC0DE)
// Where the device sees the host's memory.
#define SHIFT 0x100000000000ull

enum { MOST = 64 };
static struct { char* at; size_t bytes; unsigned flags; } registered[MOST];
static int regions;
static struct { CUhostFn function; void* data; } captured[MOST];
static int nodes;
static int refuse_at, refuse_with, registrations, initialised, streams_seen;
static void* last_stream;
static _Thread_local void* context;

static void* trampoline(void* node) {
  captured[MOST - 1].function(node);
  return NULL;
}

static CUresult run(CUhostFn function, void* data) {
  pthread_t thread;
  captured[MOST - 1].function = function;
  if (pthread_create(&thread, NULL, trampoline, data)) return OUT_OF_MEMORY;
  pthread_join(thread, NULL);
  return SUCCESS;
}

CUresult cuInit(unsigned flags) {
  initialised = 1;
  return flags ? INVALID_VALUE : SUCCESS;
}

CUresult cuDeviceGet(int* device, int ordinal) {
  if (!initialised) return NOT_INITIALIZED;
  *device = ordinal + 7;
  return ordinal == 0 ? SUCCESS : 101;
}

CUresult cuDevicePrimaryCtxRetain(void** made, int device) {
  *made = (void*)0xC0;
  return device == 7 ? SUCCESS : 101;
}

CUresult cuCtxGetCurrent(void** current) {
  *current = context;
  return initialised ? SUCCESS : NOT_INITIALIZED;
}

CUresult cuCtxSetCurrent(void* wanted) {
  context = wanted;
  return SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return SUCCESS;
    case NOT_REGISTERED: *name = "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"; return SUCCESS;
    case ALREADY: *name = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; return SUCCESS;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return SUCCESS;
    case 719: *name = "CUDA_ERROR_LAUNCH_FAILED"; return SUCCESS;
  }
  *name = NULL;
  return INVALID_VALUE;
}

CUresult cuLaunchHostFunc(void* stream, CUhostFn function, void* data) {
  last_stream = stream;
  streams_seen++;
  if (!function) return INVALID_VALUE;
  if (stream != CAPTURED) return run(function, data);
  captured[nodes].function = function;
  captured[nodes++].data = data;
  return SUCCESS;
}

static int region_of(const char* at) {
  for (int i = 0; i < regions; i++)
    if (at >= registered[i].at && at < registered[i].at + registered[i].bytes) return i;
  return -1;
}

CUresult cuMemHostRegister_v2(void* at, size_t bytes, unsigned flags) {
  if (!context) return INVALID_CONTEXT;
  if (++registrations == refuse_at) return refuse_with;
  if (!bytes || regions == MOST) return INVALID_VALUE;
  if (region_of(at) >= 0) return ALREADY;
  registered[regions].at = at;
  registered[regions].bytes = bytes;
  registered[regions++].flags = flags;
  return SUCCESS;
}

CUresult cuMemHostUnregister(void* at) {
  if (!context) return INVALID_CONTEXT;
  int found = region_of(at);
  if (found < 0 || registered[found].at != at) return NOT_REGISTERED;
  registered[found] = registered[--regions];
  return SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(uint64_t* pointer, void* at, unsigned flags) {
  if (!context) return INVALID_CONTEXT;
  if (flags || region_of(at) < 0) return INVALID_VALUE;
  *pointer = (uint64_t)at + SHIFT;
  return SUCCESS;
}

// What tests ask and order.
void fake_refuse(int which, int with) {
  refuse_at = which ? registrations + which : 0;
  refuse_with = with;
}

int fake_regions(void) { return regions; }
size_t fake_bytes(int i) { return registered[i].bytes; }
unsigned fake_flags(int i) { return registered[i].flags; }
uint64_t fake_last_stream(void) { return (uint64_t)last_stream; }
int fake_launches(void) { return streams_seen; }

int fake_replay(void) {
  for (int i = 0; i < nodes; i++) {
    CUresult result = run(captured[i].function, captured[i].data);
    if (result) return result;
  }
  return SUCCESS;
}
