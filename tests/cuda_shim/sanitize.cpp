// Every kernel once on small arrays of exactly their size, for sanitizers to watch. The results are checked elsewhere.
//
// An argument plants a bug that the sanitizer must report, or it would report nothing:
//   short    an array that is one voxel too short        (AddressSanitizer)
//   cast     a NaN turned into an integer                (UndefinedBehaviorSanitizer)
//   race     barriers that do not order shared memory    (ThreadSanitizer)
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "api.h"
#include "common/warp_voxel.h"
#include "cuda_runtime.h"

using namespace fastreg;

namespace {

std::mt19937 chance(0);
bool planted_short = false;

// Memory of its own, so that one element beyond the end is beyond the allocation.
struct Array {
  std::unique_ptr<char[]> memory;
  size_t bytes;

  explicit Array(size_t bytes) : memory(new char[bytes]()), bytes(bytes) {}
  void* address() { return memory.get(); }
};

size_t width_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

Array filled(DType dtype, int64_t count, float scale, float offset = 0) {
  Array array(size_t(count) * width_of(dtype));
  std::normal_distribution<float> normal(0, 1);
  for (int64_t i = 0; i < count; ++i) {
    const float value = offset + scale * normal(chance);
    switch (dtype) {
      case DType::f32: narrow(value, reinterpret_cast<float*>(array.address())[i]); break;
      case DType::f64: narrow(double(value), reinterpret_cast<double*>(array.address())[i]); break;
      case DType::f16: narrow(value, reinterpret_cast<f16*>(array.address())[i]); break;
      case DType::bf16: narrow(value, reinterpret_cast<bf16*>(array.address())[i]); break;
    }
  }
  return array;
}

template <class Args>
void sized(Args& args, int ndim, int64_t d, int64_t h, int64_t w) {
  args.ndim = ndim;
  args.batch = 1;
  args.size[0] = d;
  args.size[1] = h;
  args.size[2] = w;
}

void warps(DType dtype, Mode mode, Padding padding, int ndim, bool channels_last) {
  WarpArgs args{};
  sized(args, ndim, ndim == 3 ? 3 : 1, 9, 37);
  for (int axis = 0; axis < 3; ++axis) args.grid[axis] = args.size[axis];
  const int64_t voxels = args.size[0] * args.size[1] * args.size[2];
  args.channels = 2;
  args.dtype = dtype;
  args.mode = mode;
  args.padding = padding;
  args.channels_last = channels_last;
  const DType of_flow = dtype == DType::f64 ? DType::f64 : DType::f32;
  Array vol = filled(dtype, 2 * voxels - (planted_short ? 1 : 0), 1);
  Array flow = filled(of_flow, ndim * voxels, 2), out = filled(dtype, 2 * voxels, 1);
  Array grad_vol(vol.bytes), grad_flow(flow.bytes);
  const float odd[] = {NAN, INFINITY, -INFINITY, 1e38f, -1e38f, 1073741824.f, -2147483648.f};
  if (dtype != DType::f64)
    for (int i = 0; i < 7; ++i) static_cast<float*>(flow.address())[5 * i] = odd[i];
  args.vol = vol.address();
  args.flow = flow.address();
  args.out = out.address();
  cuda::warp_forward(args);
  args.grad_out = out.address();
  args.grad_flow = grad_flow.address();
  cuda::warp_backward(args);
  args.grad_vol = grad_vol.address();
  for (const bool deterministic : {false, true}) {
    args.deterministic = deterministic;
    Array scratch(cuda::warp_backward_scratch(args));
    args.scratch = scratch.address();
    cuda::warp_backward(args);
  }
}

void correlations(DType dtype, int ndim, int window, bool count, int64_t d, int64_t h, int64_t w) {
  LnccArgs args{};
  sized(args, ndim, d, h, w);
  args.channels = 1;
  args.dtype = dtype;
  for (int axis = 3 - ndim; axis < 3; ++axis) args.form.window[axis] = window;
  if (ndim == 2) args.form.window[0] = 1;
  args.form.squared = true;
  args.form.floor = fastreg::Floor::max;
  args.form.floor_eps = 1e-5;
  args.form.count = count;
  args.form.flat_eps = -1;
  args.form.clamp = true;
  args.scale = 1;
  args.weight_channels = 1;
  args.workspace = 24 * 5 * h * w * int64_t(width_of(dtype));  // several slabs, where the window allows them
  const int64_t voxels = d * h * w;
  // Far from zero, so that some tiles are done again in float64.
  Array a = filled(dtype, voxels, 0.01f, 40), b = filled(dtype, voxels, 1), weight = filled(dtype, voxels, 0, 1);
  Array grad_a(a.bytes), grad_b(b.bytes), map(a.bytes), value(sizeof(double));
  args.a = a.address();
  args.b = b.address();
  args.weight = weight.address();
  args.map = map.address();
  args.value = value.address();
  args.mask_channels = 1;
  for (int run = 0; run < 4; ++run) {
    const int gradients = run < 3 ? run : 2;
    args.mask = run < 3 ? nullptr : b.address();  // of any sign: about half of the voxels count
    args.grad_b = gradients > 0 ? grad_b.address() : nullptr;
    args.grad_a = gradients > 1 ? grad_a.address() : nullptr;
    Array scratch(cuda::lncc_scratch(args));
    args.scratch = scratch.address();
    cuda::lncc(args);
  }
}

void fields(DType dtype, int ndim) {
  const int64_t voxels = (ndim == 3 ? 3 : 1) * 9 * 37;
  Array velocity = filled(dtype, ndim * voxels, 2), flow(velocity.bytes), saved(3 * velocity.bytes);
  Array grad(velocity.bytes), scratch(velocity.bytes), value(sizeof(double));
  IntegrateArgs args{};
  sized(args, ndim, ndim == 3 ? 3 : 1, 9, 37);
  args.dtype = dtype;
  args.steps = 3;
  args.velocity = velocity.address();
  args.flow = flow.address();
  args.scratch = scratch.address();
  cuda::integrate_forward(args);
  args.saved = saved.address();
  cuda::integrate_forward(args);
  args.grad_flow = flow.address();
  args.grad_velocity = grad.address();
  cuda::integrate_backward(args);

  SmoothnessArgs penalty{};
  sized(penalty, ndim, ndim == 3 ? 3 : 1, 9, 37);
  penalty.dtype = dtype;
  penalty.flow = velocity.address();
  penalty.grad = grad.address();
  penalty.value = value.address();
  Array sums(cuda::smoothness_scratch(penalty));
  penalty.scratch = sums.address();
  cuda::smoothness(penalty);
}

void steps(DType dtype, int ndim) {
  const int64_t voxels = (ndim == 3 ? 3 : 1) * 9 * 37;
  Array velocity = filled(dtype, ndim * voxels, 1), grad = filled(dtype, ndim * voxels, 1), mean(grad.bytes);
  Array square(grad.bytes), known = filled(dtype, voxels, 1), value(sizeof(double));
  PenaltyArgs penalty{};
  sized(penalty, ndim, ndim == 3 ? 3 : 1, 9, 37);
  penalty.dtype = dtype;
  penalty.smoothness = penalty.volume = 1;
  penalty.velocity = velocity.address();
  penalty.known = known.address();
  penalty.grad = grad.address();
  penalty.value = value.address();
  Array scratch(cuda::penalty_scratch(penalty));
  penalty.scratch = scratch.address();
  cuda::penalty(penalty);

  AdamArgs adam{};
  sized(adam, ndim, ndim == 3 ? 3 : 1, 9, 37);
  adam.dtype = dtype;
  adam.count = 1;
  adam.step = adam.eps = 0.1;
  adam.velocity = velocity.address();
  adam.grad = grad.address();
  adam.mean = mean.address();
  adam.square = square.address();
  for (adam.passes = 0; adam.passes <= 4; ++adam.passes) cuda::adam_step(adam);

  DeterminantArgs determinant{};
  sized(determinant, ndim, ndim == 3 ? 3 : 1, 9, 37);
  determinant.dtype = dtype;
  determinant.flow = velocity.address();
  determinant.out = known.address();
  for (const Scheme scheme : {Scheme::central, Scheme::least}) {
    determinant.scheme = scheme;
    cuda::determinant(determinant);
  }

  MindArgs mind{};
  sized(mind, ndim, ndim == 3 ? 3 : 1, 9, 37);
  mind.channels = 1;
  mind.dtype = dtype;
  Array floor(mind.batch * sizeof(double));
  mind.image = velocity.address();
  mind.floor = floor.address();
  for (const MindKind kind : {MindKind::mind, MindKind::ssc}) {
    mind.kind = kind;
    Array out = filled(dtype, mind.batch * 12 * voxels, 1);
    mind.out = out.address();
    mind.grad_out = nullptr;
    Array partial(cuda::mind_scratch(mind));
    mind.scratch = partial.address();
    cuda::mind_forward(mind);
    mind.grad_out = out.address();
    mind.grad_image = grad.address();
    Array slopes(cuda::mind_scratch(mind));
    mind.scratch = slopes.address();
    cuda::mind_backward(mind);
  }
}

void costs(DType dtype, int ndim, int radius, Padding padding) {
  CorrelateArgs args{};
  const int64_t depth = ndim == 3 ? 3 : 1, voxels = depth * 5 * 37, reach = 2 * radius + 1;
  sized(args, ndim, depth, 5, 37);
  args.channels = 2;
  args.dtype = dtype;
  args.radius = radius;
  args.padding = padding;
  args.measure = padding == Padding::border ? Measure::ssd : Measure::dot;
  Array a = filled(dtype, 2 * voxels, 1), b = filled(dtype, 2 * voxels, 1), grad_a(a.bytes), grad_b(b.bytes);
  Array scores = filled(dtype, voxels * reach * reach * (ndim == 3 ? reach : 1), 1);
  Array field = filled(dtype == DType::f64 ? DType::f64 : DType::f32, ndim * voxels, 1);
  args.a = a.address();
  args.b = b.address();
  args.grad_a = grad_a.address();
  args.grad_b = grad_b.address();
  for (args.sharpness = 0; args.sharpness < 2; ++args.sharpness) {
    args.out = args.sharpness > 0 ? field.address() : scores.address();
    args.grad = args.out;
    Array scratch(cuda::correlate_scratch(args));
    args.scratch = scratch.address();
    cuda::correlate_forward(args);
    cuda::correlate_backward(args);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string planted = count > 1 ? arguments[1] : "";
  planted_short = planted == "short";
  shim::barriers_order_memory = planted != "race";
  if (planted == "cast") {
    volatile float coordinate = NAN;
    std::printf("%lld\n", static_cast<long long>(floor_index<float>(coordinate)));
  }
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const Padding padding : {Padding::zeros, Padding::border, Padding::reflection}) {
      warps(dtype, Mode::linear, padding, 3, padding == Padding::border);
      warps(dtype, Mode::linear, padding, 2, padding == Padding::zeros);
      warps(dtype, Mode::nearest, padding, 3, false);
    }
  fields(DType::f32, 3);
  fields(DType::f64, 2);
  steps(DType::f32, 3);
  steps(DType::f64, 2);
  costs(DType::f32, 3, 1, Padding::zeros);
  costs(DType::bf16, 3, 1, Padding::border);
  costs(DType::f64, 2, 2, Padding::border);
  correlations(DType::f32, 3, 9, false, 4, 10, 40);
  correlations(DType::f32, 3, 3, false, 30, 5, 9);
  correlations(DType::bf16, 2, 5, false, 1, 10, 132);
  correlations(DType::f16, 3, 7, false, 3, 5, 12);
  correlations(DType::f64, 3, 3, true, 30, 5, 9);
  correlations(DType::f32, 2, 11, false, 1, 9, 45);
  std::puts("done");
}
