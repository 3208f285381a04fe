// Every kernel once on small arrays of exactly their size, for compute-sanitizer to watch on a GPU.
//
// An argument plants a bug that one of its tools must report, or it would report nothing:
//   short  an array that is too short           (memcheck)
//   race   shared memory without a barrier      (racecheck)
//   unset  an array that nobody wrote           (initcheck)
//   split  a barrier that half the lanes reach   (synccheck)
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "api.h"
#include "cuda/device.cuh"

using namespace fastreg;

namespace {

std::mt19937 chance(0);

__global__ void racing(float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = float(threadIdx.x);
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void splitting() {
  if (threadIdx.x % 2) __syncthreads();
}

// Device memory of its own.
struct Array {
  void* address = nullptr;
  size_t bytes;

  explicit Array(size_t bytes) : bytes(bytes) { cuda::check(cudaMalloc(&address, bytes ? bytes : 1), "cudaMalloc"); }
  Array(const Array&) = delete;
  ~Array() { cudaFree(address); }
};

struct Filled : Array {
  explicit Filled(int64_t count, float scale, float offset = 0) : Array(size_t(count) * sizeof(float)) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = offset + scale * normal(chance);
    cuda::check(cudaMemcpy(address, values.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
};

template <class Args>
void sized(Args& args, int64_t d, int64_t h, int64_t w) {
  args.ndim = 3;
  args.batch = 1;
  args.size[0] = d;
  args.size[1] = h;
  args.size[2] = w;
}

void warps(Padding padding, Mode mode, bool planted_short, bool planted_unset) {
  WarpArgs args{};
  sized(args, 5, 9, 70);
  for (int axis = 0; axis < 3; ++axis) args.grid[axis] = args.size[axis];
  const int64_t voxels = 5 * 9 * 70;
  args.channels = 2;
  args.mode = mode;
  args.padding = padding;
  Filled vol(planted_short ? voxels : 2 * voxels, 1), flow(3 * voxels, 2), grad(2 * voxels, 1);
  Array unset(vol.bytes), out(grad.bytes), grad_vol(2 * voxels * sizeof(float)), grad_flow(flow.bytes);
  args.vol = planted_unset ? unset.address : vol.address;
  args.flow = flow.address;
  args.out = out.address;
  cuda::warp_forward(args);
  args.grad_out = grad.address;
  args.grad_flow = grad_flow.address;
  cuda::warp_backward(args);
  args.grad_vol = grad_vol.address;
  for (const bool deterministic : {false, true}) {
    args.deterministic = deterministic;
    Array scratch(cuda::warp_backward_scratch(args));
    args.scratch = scratch.address;
    cuda::warp_backward(args);
    cuda::check(cudaDeviceSynchronize(), "warp");
  }
}

void correlations(int window, int64_t d, int64_t h, int64_t w) {
  LnccArgs args{};
  sized(args, d, h, w);
  args.channels = 1;
  args.weight_channels = 1;
  for (int& length : args.form.window) length = window;
  args.form.squared = true;
  args.form.floor = 1;
  args.form.floor_eps = 1e-5;
  args.form.flat_eps = -1;
  args.form.clamp = true;
  args.scale = 1;
  args.workspace = 24 * 5 * h * w * 4;
  const int64_t voxels = d * h * w;
  // Far from zero, so that some tiles are done again in float64.
  Filled a(voxels, 0.01f, 40), b(voxels, 1);
  Array grad_a(a.bytes), grad_b(b.bytes), map(a.bytes), value(sizeof(double));
  args.a = a.address;
  args.b = b.address;
  args.grad_a = grad_a.address;
  args.map = map.address;
  args.value = value.address;
  for (int gradients = 1; gradients < 3; ++gradients) {
    args.grad_b = gradients > 1 ? grad_b.address : nullptr;
    Array scratch(cuda::lncc_scratch(args));
    args.scratch = scratch.address;
    cuda::lncc(args);
    cuda::check(cudaDeviceSynchronize(), "lncc");
  }
}

void fields() {
  const int64_t voxels = 5 * 9 * 70;
  Filled velocity(3 * voxels, 2);
  Array flow(velocity.bytes), saved(3 * velocity.bytes), grad(velocity.bytes), scratch(velocity.bytes);
  Array value(sizeof(double)), sums(cuda::smoothness_scratch({}));
  IntegrateArgs args{};
  sized(args, 5, 9, 70);
  args.steps = 3;
  args.velocity = velocity.address;
  args.flow = flow.address;
  args.saved = saved.address;
  args.scratch = scratch.address;
  cuda::integrate_forward(args);
  args.grad_flow = flow.address;
  args.grad_velocity = grad.address;
  cuda::integrate_backward(args);
  SmoothnessArgs penalty{};
  sized(penalty, 5, 9, 70);
  penalty.flow = velocity.address;
  penalty.grad = grad.address;
  penalty.value = value.address;
  penalty.scratch = sums.address;
  cuda::smoothness(penalty);
  cuda::check(cudaDeviceSynchronize(), "fields");
}

}  // namespace

int main(int count, char** arguments) {
  const std::string planted = count > 1 ? arguments[1] : "";
  try {
    if (planted == "race") {
      Array out(64 * sizeof(float));
      cuda::launch("racing", racing, 1, 64, 0, nullptr, static_cast<float*>(out.address));
    }
    if (planted == "split") cuda::launch("splitting", splitting, 1, 32, 0, nullptr);
    for (const Padding padding : {Padding::zeros, Padding::border, Padding::reflection})
      for (const Mode mode : {Mode::linear, Mode::nearest})
        warps(padding, mode, planted == "short", planted == "unset");
    fields();
    correlations(9, 4, 10, 40);
    correlations(3, 30, 5, 9);
    correlations(11, 3, 9, 45);
    cuda::check(cudaDeviceSynchronize(), "the end");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::puts("done");
}
