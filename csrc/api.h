// The border between Python and the kernels: plain structs of addresses and sizes, one signature per op and device.
// No torch headers. Every array is dense and row-major; `out` arrays are allocated by the caller and need no zeroing.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastreg {

enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };  // the last two on a GPU, and of CorrelateArgs
enum class Mode : int { linear = 0, nearest = 1 };
// What a voxel outside the image reads. symmetric: reflection about the edges of the outer voxels, not their centres.
// itk: border up to half a voxel outside, 0 beyond.
enum class Padding : int { zeros = 0, border = 1, reflection = 2, symmetric = 3, itk = 4 };
enum class Floor : int { none = 0, max = 1, add = 2 };  // of a variance: v, max(v, floor_eps), max(v, 0) + floor_eps

enum class Measure : int { dot = 0, ssd = 1 };  // of two vectors of channels: mean product, mean squared difference

enum class MindKind : int { mind = 0, ssc = 1 };     // which patches are compared
enum class Scheme : int { central = 0, least = 1 };  // of differences: docs/math.md

// Three axes always; a 2-D problem has ndim = 2, size[0] = grid[0] = 1 and a flow of two channels (H, W).
struct WarpArgs {
  int ndim;
  int64_t batch, channels;
  int64_t size[3];  // D, H, W of vol
  int64_t grid[3];  // D', H', W' of flow and out
  DType dtype;      // of every array; with half precision flow and grad_flow are float32
  Mode mode;
  Padding padding;
  bool channels_last;  // flow is [batch, D', H', W', ndim] instead of [batch, ndim, D', H', W']
  // flow is not a displacement but the places themselves, as of torch's grid_sample: channels last, x first, -1 and 1 at
  // the outer voxels' edges, or at their centres with align_corners. So is grad_flow.
  bool normalised, align_corners;
  bool vol_shared;  // vol and grad_vol are [1, channels, D, H, W]: one image for all fields of the batch
  int threads;
  const void* vol;       // [batch, channels, D, H, W], or as vol_shared says
  const void* flow;      // [batch, ndim, D', H', W'], voxels of vol
  void* out;             // [batch, channels, D', H', W']           (forward)
  const void* grad_out;  // like out                                (backward)
  void* grad_vol;        // like vol, or null when not wanted       (backward)
  void* grad_flow;       // like flow, or null when not wanted      (backward)

  // On a GPU only.
  bool deterministic;  // grad_vol is summed in fixed point: the order of the additions does not matter
  void* scratch;       // warp_backward_scratch() bytes
  void* stream;
};

// What two definitions of the local correlation may disagree about (MATH in docs/math.md, fastreg/types.py).
struct LnccForm {
  int window[3];  // edge lengths along D, H, W, odd
  Floor floor;
  double floor_eps, den_eps, num_eps;
  bool cross_floor;  // c <- max(c, floor_eps)
  bool mean;         // variances and covariance divided by n
  bool count;        // n is the number of voxels of the window inside the image, not window^ndim
  double flat_eps;   // >= 0: the value is `flat` where |v_a v_b| <= flat_eps; < 0: no such rule
  double flat;
  bool clamp;    // value <- min(value, 1)
  bool squared;  // otherwise (c + num_eps) / (sqrt(a b) + den_eps)
};

struct LnccArgs {
  int ndim;
  int64_t batch, channels;
  int64_t size[3];  // D, H, W
  DType dtype;
  LnccForm form;
  int threads;
  const void* a;            // [batch, channels, D, H, W]
  const void* b;            // [batch, channels, D, H, W]
  const void* weight;       // [batch, 1, D, H, W] or [batch, channels, D, H, W] weights of the windows, or null: all 1
  int64_t weight_channels;  // 1 or channels
  const void* mask;         // [batch, 1 or channels, D, H, W]: voxels of 0 or less enter no sum; null: all enter
  int64_t mask_channels;    // 1 or channels
  double scale;             // the gradients are those of scale * sum(weight * cc)
  void* grad_a;             // like a, or null when not wanted
  void* grad_b;             // like b, or null when not wanted
  void* map;                // like a: cc of every window, or null when not wanted

  // On a GPU only.
  int64_t workspace;  // most bytes that the derivatives of the windows may take; larger problems are done in slabs
  void* value;        // one double
  void* scratch;      // lncc_scratch() bytes, aligned to 256
  void* stream;
};

struct IntegrateArgs {
  int ndim;
  int64_t batch;
  int64_t size[3];
  DType dtype;
  int steps;
  Padding padding;
  int threads;
  const void* velocity;   // [batch, ndim, D, H, W], voxels
  void* flow;             // like velocity                                   (forward)
  void* saved;            // [steps, batch, ndim, D, H, W]: the field before each squaring, in any layout of that
                          // many elements; null in a forward whose gradient nobody wants
  const void* grad_flow;  // like velocity                                   (backward)
  void* grad_velocity;    // like velocity                                   (backward)

  // On a GPU only.
  void* scratch;  // like velocity; not needed in a forward that keeps everything
  void* stream;
};

struct SmoothnessArgs {
  int ndim;
  int64_t batch;
  int64_t size[3];
  DType dtype;
  int threads;
  const void* flow;  // [batch, ndim, D, H, W]
  void* grad;        // like flow: gradient of the value, or null when not wanted

  // On a GPU only.
  void* value;    // one double
  void* scratch;  // smoothness_scratch() bytes
  void* stream;
};

struct PenaltyArgs {
  int ndim;
  int64_t batch;
  int64_t size[3];
  DType dtype;
  double smoothness, volume;  // the weights of the two parts; a part of weight 0 is not computed
  int threads;
  const void* velocity;  // [batch, ndim, D, H, W]
  const void* known;     // [batch, 1, D, H, W]: log determinant of what is known already, or null: 0
  void* grad;            // like velocity: the gradient of the value is added to it; null when not wanted

  // On a GPU only.
  void* value;    // one double
  void* scratch;  // penalty_scratch() bytes
  void* stream;
};

struct AdamArgs {
  int ndim;
  int64_t batch;
  int64_t size[3];
  DType dtype;
  int64_t count;  // number of steps, this one included
  double step, beta1, beta2, eps;
  int passes;  // 0 .. 4, of the filter (1 2 1) / 4 along every axis
  int threads;
  void* velocity;  // [batch, ndim, D, H, W], changed
  void* grad;      // like velocity, overwritten with anything
  void* mean;      // like velocity: of the gradients, changed
  void* square;    // like velocity: mean of the squared gradients, changed

  // On a GPU only.
  void* stream;
};

struct DeterminantArgs {
  int ndim;
  int64_t batch;
  int64_t size[3];  // no axis of one voxel, but D in 2-D
  DType dtype;
  Scheme scheme;
  int threads;
  const void* flow;  // [batch, ndim, D, H, W]
  void* out;         // [batch, D, H, W]

  // On a GPU only.
  void* stream;
};

// Scores of a at p against b at p + d, for the (2 radius + 1)^ndim displacements d, the last component running fastest.
struct CorrelateArgs {
  int ndim;
  int64_t batch, channels;
  int64_t size[3];  // D, H, W
  DType dtype;      // of a, b, their gradients and the scores; the field is float32 with half precision
  int radius;       // voxels, along D only in 3-D
  Measure measure;
  Padding padding;   // zeros or border
  double sharpness;  // 0: out is the scores; above: the mean of d weighed by softmax(sharpness * +-score), voxels
  int threads;
  const void* a;     // [batch, channels, D, H, W]
  const void* b;     // like a
  void* out;         // [batch, (2 radius + 1)^ndim, D, H, W] or [batch, ndim, D, H, W]   (forward)
  const void* grad;  // like out                                                          (backward)
  void* grad_a;      // like a, or null when not wanted                                   (backward)
  void* grad_b;      // like b, or null when not wanted                                   (backward)

  // On a GPU only.
  void* scratch;  // correlate_scratch() bytes: with a sharpness the gradient to the scores (backward)
  void* stream;
};

struct MindArgs {
  int ndim;
  int64_t batch, channels;
  int64_t size[3];
  DType dtype;
  MindKind kind;
  int threads;
  const void* image;     // [batch, channels, D, H, W]
  void* floor;           // [batch, channels]: the least that v counts as         (forward: written, backward: read)
  void* out;             // [batch, pairs * channels, D, H, W], pair by pair       (forward)
  const void* grad_out;  // like out                                               (backward)
  void* grad_image;      // like image                                             (backward)

  // On a GPU only.
  void* scratch;  // mind_scratch() bytes
  void* stream;
};

// Of the CPU alone. The volume is padded, so that every window lies in it: kWindowPad voxels at the beginning of each axis
// and at its end, kWindowPadEnd at the end of W.
constexpr int kLanczosRadius = 5, kVoteReach = 4, kWindowPad = 5, kWindowPadEnd = 11;
struct WindowArgs {
  int ndim;
  int64_t size[3];  // D, H, W of the image, without the pad
  int64_t grid[3];  // D', H', W' of flow and out
  int threads;
  const void* vol;    // [D + 10, H + 10, W + 16] (2-D: [H + 10, W + 16]): float32 or, of a vote, int32, -1 in the pad
  const float* flow;  // [ndim, D', H', W'], voxels of the image
  void* out;          // [D', H', W'], like vol
};

namespace cpu {
void warp_forward(const WarpArgs&);
void warp_backward(const WarpArgs&);
double lncc(const LnccArgs&);  // sum over windows of weight * cc, in a fixed order
void integrate_forward(const IntegrateArgs&);
void integrate_backward(const IntegrateArgs&);
double smoothness(const SmoothnessArgs&);  // mean over batch and axes of the mean squared forward difference
double penalty(const PenaltyArgs&);        // smoothness * roughness + volume * mean squared (known + div velocity)
void adam_step(const AdamArgs&);
void determinant(const DeterminantArgs&);
void mind_forward(const MindArgs&);
void mind_backward(const MindArgs&);
void correlate_forward(const CorrelateArgs&);
void correlate_backward(const CorrelateArgs&);
void lanczos(const WindowArgs&);
void bspline(const WindowArgs&);  // vol: coefficients
void vote(const WindowArgs&);
const char* isa();          // "avx512", "avx2" or "baseline": what this processor gets
void set_isa(const char*);  // for tests and benchmarks: not above what the processor has
}  // namespace cpu

// The same on the current GPU. Everything is put on args.stream and nothing waits for it; every address is one of the
// device, and what is a return value above is written there. Errors of a launch are thrown as std::runtime_error.
namespace cuda {
void warp_forward(const WarpArgs&);
void warp_backward(const WarpArgs&);
size_t warp_backward_scratch(const WarpArgs&);
void lncc(const LnccArgs&);
size_t lncc_scratch(const LnccArgs&);
void integrate_forward(const IntegrateArgs&);
void integrate_backward(const IntegrateArgs&);
void smoothness(const SmoothnessArgs&);
size_t smoothness_scratch(const SmoothnessArgs&);
void penalty(const PenaltyArgs&);
size_t penalty_scratch(const PenaltyArgs&);
void mind_forward(const MindArgs&);
void mind_backward(const MindArgs&);
size_t mind_scratch(const MindArgs&);  // of the backward where grad_out is given
void adam_step(const AdamArgs&);
void determinant(const DeterminantArgs&);
void correlate_forward(const CorrelateArgs&);
void correlate_backward(const CorrelateArgs&);
size_t correlate_scratch(const CorrelateArgs&);
}  // namespace cuda

}  // namespace fastreg
