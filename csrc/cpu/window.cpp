// A window of voxels about each place: a windowed sinc or cubic B-splines, and labels that vote.
#include <cmath>
#include <limits>

#include "api.h"
#include "common/shape.h"
#include "cpu/each_isa.h"
#include "cpu/memory.h"

namespace fastreg::cpu {
namespace {

constexpr double kPi = 3.14159265358979323846;

template <class T>
struct WindowRow {
  int ndim;
  int64_t z, y, n;
  Shape size;            // of the image, without its pad
  Shape padded;          // of vol
  const T* vol;          // one volume
  const float* flow[3];  // the row's own, null where there is no such axis
  T* out;
};

// The place of voxel x of the row on one axis, at most half a voxel outside of the image.
template <class T>
FR_HD double place_of(const WindowRow<T>& row, int axis, int64_t x) {
  const int64_t point = axis == 0 ? row.z : axis == 1 ? row.y : x;
  const double place = double(point) + double(row.flow[axis][x]), last = double(row.size[axis]) - 0.5;
  return place < -0.5 ? -0.5 : place > last ? last : place;  // NaN stays
}

// ---------------------------------------------------------------- intensities

constexpr int kRadius = kLanczosRadius;

struct Turns {
  double sin[2 * kRadius], cos[2 * kRadius];  // of pi j / radius
  Turns() {
    for (int k = 0; k < 2 * kRadius; ++k) {
      sin[k] = std::sin(kPi * (k - kRadius + 1) / kRadius);
      cos[k] = std::cos(kPi * (k - kRadius + 1) / kRadius);
    }
  }
};
const Turns kTurns;

// Weights of the voxels about a place floor + t, 0 <= t < 1; the voxel `before` voxels before the floor has the first.
struct Sinc {
  static constexpr int taps = 2 * kRadius, before = kRadius - 1, loaded = 16;

  static FR_HD void weights(double t, float (&to)[taps]) {
    const double outer = std::sin(kPi * t) * kRadius / (kPi * kPi);
    const double sine = std::sin(kPi * t / kRadius), cosine = std::cos(kPi * t / kRadius);
    for (int k = 0; k < taps; ++k) {
      const int j = k - before;
      const double x = t - j, inner = sine * kTurns.cos[k] - cosine * kTurns.sin[k];
      to[k] = t == 0 ? float(j == 0) : float((j & 1 ? -outer : outer) * inner / (x * x));
    }
  }
};

struct Cubic {
  static constexpr int taps = 4, before = 1, loaded = 4;

  static FR_HD void weights(double t, float (&to)[taps]) {
    const double rest = 1 - t;
    to[0] = float(rest * rest * rest / 6);
    to[1] = float(2.0 / 3 + (t / 2 - 1) * t * t);
    to[2] = float(2.0 / 3 + (rest / 2 - 1) * rest * rest);
    to[3] = float(t * t * t / 6);
  }
};

// The index of the first voxel on the padded axis.
template <class Kernel>
FR_HD int64_t window_of(double place, float (&weights)[Kernel::taps]) {
  double base = std::floor(place), t = place - base;
  if (t >= 1) {  // a tiny negative place, rounded
    base += 1;
    t = 0;
  }
  Kernel::weights(t, weights);
  return int64_t(base) - Kernel::before + kWindowPad;
}

template <class Kernel>
FR_HD void weighted_row(const WindowRow<float>& given) {
  constexpr int taps = Kernel::taps, loaded = Kernel::loaded;
  const WindowRow<float> row = given;
  for (int64_t x = 0; x < row.n; ++x) {
    float weights[3][taps] = {{1}};
    int64_t first[3] = {0, 0, 0};
    bool is_nan = false;
    for (int axis = 3 - row.ndim; axis < 3; ++axis) {
      const double place = place_of(row, axis, x);
      is_nan = is_nan || place != place;
      first[axis] = is_nan ? 0 : window_of<Kernel>(place, weights[axis]);
    }
    if (is_nan) {
      row.out[x] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    float lines[loaded] = {};
    for (int z = 0; z < (row.ndim == 3 ? taps : 1); ++z) {
      float plane[loaded] = {};
      const float* line = row.vol + row.padded.at(first[0] + z, first[1], first[2]);
      for (int y = 0; y < taps; ++y, line += row.padded.w)
        for (int k = 0; k < loaded; ++k) plane[k] += weights[1][y] * line[k];
      for (int k = 0; k < loaded; ++k) lines[k] += weights[0][z] * plane[k];
    }
    float total = 0;
    for (int k = 0; k < taps; ++k) total += weights[2][k] * lines[k];
    row.out[x] = total;
  }
}

// ---------------------------------------------------------------- votes

constexpr int kReach = kVoteReach, kVoters = 2 * kReach + 1;

struct Ballot {
  int32_t label[kVoters * kVoters * kVoters];
  double votes[kVoters * kVoters * kVoters];
  int count = 0;

  void add(int32_t from, double weight) {
    int slot = 0;
    while (slot < count && label[slot] != from) ++slot;
    if (slot == count) {
      label[count] = from;
      votes[count++] = 0;
    }
    votes[slot] += weight;
  }

  int32_t winner() const {
    double most = 0;
    for (int slot = 0; slot < count; ++slot) most = votes[slot] > most ? votes[slot] : most;
    int32_t best = std::numeric_limits<int32_t>::max();
    for (int slot = 0; slot < count; ++slot)  // equal but for the order of the sums
      if (votes[slot] >= most * (1 - 1e-12) && label[slot] < best) best = label[slot];
    return best;
  }
};

// Shares of a Gaussian about the place, sigma 1 voxel, that fall into each voxel from nearest - reach on.
inline void gaussian_weights(double from_nearest, double (&weights)[kVoters]) {
  double before = std::erf((-kReach - 0.5 - from_nearest) * std::sqrt(0.5));
  for (int k = 0; k < kVoters; ++k) {
    const double now = std::erf((k - kReach + 0.5 - from_nearest) * std::sqrt(0.5));
    weights[k] = now - before;
    before = now;
  }
  if (from_nearest == -0.5) weights[kVoters - 1] = 0;  // half-way the window is as wide on either side
}

// Whether the nearest voxel and its neighbours agree, those outside of the image aside, which are below 0. They hold more
// than half of all votes: at least 0.81 of them along each axis.
FR_HD bool unanimous(const int32_t* nearest, int ndim, const Shape& padded) {
  int32_t other = 0;
  for (int z = ndim == 3 ? -1 : 0; z <= (ndim == 3 ? 1 : 0); ++z)
    for (int y = -1; y <= 1; ++y) {
      const int32_t* line = nearest + (z * padded.h + y) * padded.w;
      for (int x = -1; x <= 1; ++x) other |= (line[x] ^ *nearest) & ~(line[x] >> 31);
    }
  return other == 0;
}

inline int32_t elected(const int32_t* corner, int ndim, const Shape& padded, const double (&from_nearest)[3]) {
  double weights[3][kVoters] = {{1}};
  for (int axis = 3 - ndim; axis < 3; ++axis) gaussian_weights(from_nearest[axis], weights[axis]);
  Ballot ballot;
  for (int z = 0; z < (ndim == 3 ? kVoters : 1); ++z)
    for (int y = 0; y < kVoters; ++y) {
      const int32_t* line = corner + (z * padded.h + y) * padded.w;
      const double share = weights[0][z] * weights[1][y];
      for (int k = 0; k < kVoters;) {
        double sum = 0;
        const int32_t label = line[k];
        for (; k < kVoters && line[k] == label; ++k) sum += weights[2][k];
        if (label >= 0) ballot.add(label, share * sum);
      }
    }
  return ballot.winner();
}

FR_HD void vote_row(const WindowRow<int32_t>& given) {
  const WindowRow<int32_t> row = given;
  for (int64_t x = 0; x < row.n; ++x) {
    double from_nearest[3] = {0, 0, 0};
    int64_t first[3] = {0, 0, 0};
    bool is_nan = false;
    for (int axis = 3 - row.ndim; axis < 3; ++axis) {
      const double place = place_of(row, axis, x), last = double(row.size[axis] - 1);
      is_nan = is_nan || place != place;
      const double upper = std::floor(place + 0.5), nearest = upper > last ? last : upper;
      from_nearest[axis] = place - nearest;
      first[axis] = is_nan ? 0 : int64_t(nearest) - kReach + kWindowPad;
    }
    if (is_nan) {
      row.out[x] = 0;
      continue;
    }
    const int32_t* corner = row.vol + row.padded.at(first[0], first[1], first[2]);
    const int32_t* nearest = corner + row.padded.at(row.ndim == 3 ? kReach : 0, kReach, kReach);
    row.out[x] =
        unanimous(nearest, row.ndim, row.padded) ? *nearest : elected(corner, row.ndim, row.padded, from_nearest);
  }
}

// ---------------------------------------------------------------- both

template <class T>
void sweep(const WindowArgs& args, void (*row_function)(const WindowRow<T>&)) {
  const Shape size = shape_of(args.size), grid = shape_of(args.grid);
  const int64_t pad = kWindowPad, z_pad = args.ndim == 3 ? pad : 0;
  const Shape padded{size.d + 2 * z_pad, size.h + 2 * pad, size.w + pad + kWindowPadEnd};
  prefer_huge_pages(args.out, grid.count() * sizeof(T));
#pragma omp parallel for num_threads(args.threads) schedule(dynamic, 16)
  for (int64_t k = 0; k < grid.rows(); ++k) {
    WindowRow<T> row{args.ndim, k / grid.h, k % grid.h, grid.w, size, padded, static_cast<const T*>(args.vol), {}, {}};
    for (int axis = 3 - args.ndim; axis < 3; ++axis)
      row.flow[axis] = args.flow + (axis - (3 - args.ndim)) * grid.count() + k * grid.w;
    row.out = static_cast<T*>(args.out) + k * grid.w;
    row_function(row);
  }
}

}  // namespace

void lanczos(const WindowArgs& args) { sweep<float>(args, for_isa<weighted_row<Sinc>>()); }

void bspline(const WindowArgs& args) { sweep<float>(args, for_isa<weighted_row<Cubic>>()); }

void vote(const WindowArgs& args) { sweep<int32_t>(args, for_isa<vote_row>()); }

}  // namespace fastreg::cpu
