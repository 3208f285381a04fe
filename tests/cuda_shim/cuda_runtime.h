// Enough of CUDA to run the project's .cu files on a CPU, for tests: stands in for the header of the same name.
//
// Every CUDA thread is a fiber; shuffles and barriers switch fibers. What CUDA leaves undefined is an error here: lanes
// of a warp that meet different shuffles, a thread that leaves while others wait, a kernel that reads shared memory
// before writing it (filled with NaN). Under ThreadSanitizer every fiber is a thread of its own and only __syncthreads
// and __syncwarp order their accesses, so that a missing barrier is a reported race.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SHIM_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define SHIM_UNSEEN
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

enum class State { running, exchange, barrier, left };

inline bool barriers_order_memory = true;  // false: the bug that ThreadSanitizer must find
inline bool last_block_first = false;

struct Fiber {
  void* stack_pointer = nullptr;
  std::unique_ptr<char[]> stack;
  State state = State::left;
  unsigned exchanges = 0;
  void* tsan = nullptr;
};

struct Warp {
  uint64_t value[2][32];
  int operation[2][32];
};

constexpr size_t stack_bytes = 128 * 1024;

// Never grows: the sanitizer would take that for a race with a thread that left.
inline std::vector<Fiber> fibers(1024);
inline std::vector<Warp> warps;
inline std::vector<char> shared;
inline void* scheduler = nullptr;
inline void* scheduler_tsan = nullptr;
inline unsigned current = 0;
inline const std::function<void()>* body = nullptr;
inline char order_token;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda shim: block %u thread %u: %s\n", blockIdx.x, current, what);
  std::abort();
}

// Saves the callee's registers and stack, and takes up another's.
#if !defined(__x86_64__)
#error "the shim switches stacks by hand, on x86-64 only"
#endif
extern "C" void fastreg_shim_switch(void** from, void* to);
asm(R"(
.text
.weak fastreg_shim_switch
.type fastreg_shim_switch, @function
fastreg_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastreg_shim_switch, .-fastreg_shim_switch
)");

SHIM_UNSEEN inline void to_scheduler() {
  Fiber& me = fibers[current];
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  fastreg_shim_switch(&me.stack_pointer, scheduler);
}

SHIM_UNSEEN inline void entry() {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&order_token);  // what ran before the block
#endif
  (*body)();
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&order_token);
#endif
  fibers[current].state = State::left;
  to_scheduler();
  fail("a finished thread ran on");
}

SHIM_UNSEEN inline void resume(unsigned index) {
  Fiber& fiber = fibers[index];
  current = index;
  threadIdx = dim3(index % blockDim.x, index / blockDim.x % blockDim.y, index / (blockDim.x * blockDim.y));
  fiber.state = State::running;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  fastreg_shim_switch(&scheduler, fiber.stack_pointer);
}

SHIM_UNSEEN inline void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new char[stack_bytes]);
#if defined(__SANITIZE_THREAD__)
  if (!fiber.tsan) fiber.tsan = __tsan_create_fiber(0);
#endif
  // Six registers, the address of entry, and a return address that keeps the stack aligned as the ABI has it.
  uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + stack_bytes) & ~uintptr_t(15);
  void** frame = reinterpret_cast<void**>(top) - 8;
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(&entry);
  fiber.stack_pointer = frame;
  fiber.state = State::running;
  fiber.exchanges = 0;
}

// Runs a warp until all its lanes wait at a barrier or have left.
SHIM_UNSEEN inline void run_warp(unsigned first, unsigned count) {
  while (true) {
    unsigned waiting = 0, exchanging = 0;
    for (unsigned lane = 0; lane < count; ++lane) {
      if (fibers[first + lane].state == State::running) resume(first + lane);
      const State state = fibers[first + lane].state;
      waiting += state == State::barrier;
      exchanging += state == State::exchange;
    }
    if (exchanging == 0) return;
    if (exchanging != count) fail("a shuffle that not all lanes of the warp reach");
    const unsigned slot = fibers[first].exchanges & 1;
    for (unsigned lane = 0; lane < count; ++lane) {
      if (warps[first / 32].operation[slot][lane] != warps[first / 32].operation[slot][0])
        fail("lanes of one warp meet different shuffles");
      fibers[first + lane].state = State::running;
      ++fibers[first + lane].exchanges;
    }
  }
}

SHIM_UNSEEN inline void run_block(size_t shared_bytes) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads == 0 || threads > 1024) fail("a block has 1 to 1024 threads");
  warps.resize((threads + 31) / 32);
  shared.assign(shared_bytes, char(0xff));  // NaN in every format
  shared.shrink_to_fit();
#if defined(__SANITIZE_THREAD__)
  scheduler_tsan = __tsan_get_current_fiber();
  __tsan_release(&order_token);  // what ran before this block is seen by all its threads
#endif
  for (unsigned i = 0; i < threads; ++i) prepare(fibers[i]);
  while (true) {
    unsigned waiting = 0;
    for (unsigned first = 0; first < threads; first += 32) run_warp(first, threads - first < 32 ? threads - first : 32);
    for (unsigned i = 0; i < threads; ++i) waiting += fibers[i].state == State::barrier;
    if (waiting == 0) break;
    if (waiting != threads) fail("a thread left while others wait at __syncthreads");
    for (unsigned i = 0; i < threads; ++i) fibers[i].state = State::running;
  }
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&order_token);
#endif
}

inline void barrier() {
#if defined(__SANITIZE_THREAD__)
  if (barriers_order_memory) __tsan_release(&order_token);
#endif
  fibers[current].state = State::barrier;
  to_scheduler();
#if defined(__SANITIZE_THREAD__)
  if (barriers_order_memory) __tsan_acquire(&order_token);
#endif
}

SHIM_UNSEEN inline uint64_t exchange(uint64_t value, unsigned from, int operation) {
  Fiber& me = fibers[current];
  Warp& warp = warps[current / 32];
  const unsigned slot = me.exchanges & 1;
  warp.value[slot][current % 32] = value;
  warp.operation[slot][current % 32] = operation;
  me.state = State::exchange;
  to_scheduler();
  return warp.value[slot][from];
}

template <class T>
inline T shuffle(unsigned mask, T value, unsigned from, int operation) {
  static_assert(sizeof(T) <= 8);
  if (mask != 0xffffffffu) fail("only full masks are known here");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, from, operation);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace shim

namespace fastreg::cuda {
template <class T>
inline T* shared_memory() {
  return reinterpret_cast<T*>(shim::shared.data());
}
}  // namespace fastreg::cuda

inline void __syncthreads() { shim::barrier(); }

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = shim::current % 32, least = lane / width * width;
  return shim::shuffle(mask, value, lane >= least + delta ? lane - delta : lane, int(1000 + delta));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = shim::current % 32, end = lane / width * width + width;
  return shim::shuffle(mask, value, lane + delta < end ? lane + delta : lane, int(2000 + delta));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, unsigned bits, int = 32) {
  return shim::shuffle(mask, value, (shim::current % 32) ^ bits, int(3000 + bits));
}

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline void __stcs(T* p, T value) {
  *p = value;
}

template <class T>
inline T atomicAdd(T* p, T value) {
  if constexpr (std::is_integral<T>::value) {
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
  } else {
    T old, sum;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do sum = old + value;
    while (!__atomic_compare_exchange(p, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
  }
}
template <class T>
inline T atomicMax(T* p, T value) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };

namespace shim {
inline int shared_limit = 227 * 1024;  // of a block; sm_120 has 99 KiB
}

inline const char* cudaGetErrorString(cudaError_t status) { return status ? "invalid configuration" : "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= shim::shared_limit ? cudaSuccess : cudaErrorInvalidConfiguration;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount ? 4 : shim::shared_limit;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->dynamicSmemBytes > size_t(shim::shared_limit)) return cudaErrorInvalidConfiguration;
  const std::function<void()> call = [&] { kernel(arguments...); };
  shim::body = &call;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned block = shim::last_block_first ? blocks - 1 - i : i;
    blockIdx = dim3(block % gridDim.x, block / gridDim.x % gridDim.y, block / (gridDim.x * gridDim.y));
    shim::run_block(config->dynamicSmemBytes);
  }
  shim::body = nullptr;
  return cudaSuccess;
}
