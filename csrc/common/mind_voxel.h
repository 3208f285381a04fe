// Modality independent neighbourhood descriptors (docs/math.md): which patches are compared, and one voxel's arithmetic.
#pragma once
#include "api.h"
#include "common/portable.h"
#include "common/shape.h"

namespace fastreg {

// A voxel, 0, and its neighbours: one further along D, one back, then H, then W.
constexpr int kPlaces = 7;

// The pairs of places that are compared. Without the axis D they are the last ones of those in 3-D.
template <MindKind kind, int axes>
struct MindPairs {
  static constexpr int ndim = axes, step = kind == MindKind::mind ? 2 : 1;  // of "mind" two see the same difference
  static constexpr int count = kind == MindKind::mind ? 2 * ndim : 2 * ndim * (ndim - 1);
  static constexpr int planes = ndim == 3 ? 3 : 1, patch = ndim == 3 ? 27 : 9;  // of a patch; its voxels

  static constexpr int a(int k) { return kind == MindKind::mind ? 0 : ssc_[k + (ndim == 2 ? 8 : 0)][0]; }
  static constexpr int b(int k) {
    return kind == MindKind::mind ? k + (ndim == 2 ? 3 : 1) : ssc_[k + (ndim == 2 ? 8 : 0)][1];
  }

 private:
  static constexpr int ssc_[12][2] = {{1, 3}, {1, 4}, {1, 5}, {1, 6}, {2, 3}, {2, 4},
                                      {2, 5}, {2, 6}, {3, 5}, {3, 6}, {4, 5}, {4, 6}};
};

// Beyond the border the border's values go on.
FR_HD int64_t clamped(int64_t i, int64_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

// The loops over pairs are recursions: the compiler is to know every index before it makes vectors of the voxels.

// square[k] += the squared difference of pair k; every step-th pair.
template <class Pairs, int step = 1, int k = 0, class T>
FR_HD void add_squares(const T (&value)[kPlaces], T* square) {
  if constexpr (k < Pairs::count) {
    constexpr int a = Pairs::a(k), b = Pairs::b(k);
    const T difference = value[a] - value[b];
    square[k] += difference * difference;
    add_squares<Pairs, step, k + step>(value, square);
  }
}

// The sum over the pairs.
template <class Pairs, int k = 0, class T>
FR_HD T sum_of(const T* distance) {
  if constexpr (k + 1 < Pairs::count) return distance[k] + sum_of<Pairs, k + 1>(distance);
  return distance[k];
}

constexpr double kMindFloor = 1e-3;  // of the mean of v
template <class T>
constexpr T kTiny = sizeof(T) == 8 ? T(2.2250738585072014e-308) : T(1.17549435e-38);

// 1 / max(v, floor), 0 where nothing changes; NaN stays NaN.
template <class T>
FR_HD T mind_inverse(T v, T floor) {
  const T scale = v > floor ? v : floor;
  return scale <= kTiny<T> ? T(0) : T(1) / scale;
}

// exp(-x) for x from 0 to 80, within 2e-7 of it, and 1 of 0. NaN stays NaN.
FR_HD float exp_minus(float x) {
  constexpr float log2e = 1.44269504f, to_whole = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are a whole number
  const float y = x * -log2e, shifted = y + to_whole, f = y - (shifted - to_whole);
  float p = 0.00015353353f;  // 2^f, from -1/2 to 1/2
  p = p * f + 0.0013398903f;
  p = p * f + 0.009618438f;
  p = p * f + 0.055503324f;
  p = p * f + 0.24022648f;
  p = p * f + 0.69314718f;
  p = p * f + 1.0f;
  return p * float_of_bits((bits_of_float(shifted) + 127) << 23);
}
FR_HD double exp_minus(double x) { return std::exp(-x); }

// out[k * stride] = exp(-d_k / v)
template <class Pairs, int k = 0, class T, class Out>
FR_HD void put_values(const T* distance, T inverse, Out* out, int64_t stride) {
  if constexpr (k < Pairs::count) {
    narrow(exp_minus(distance[k] * inverse), out[k * stride]);
    put_values<Pairs, k + 1>(distance, inverse, out, stride);
  }
}

// product[k] = grad_k exp(-d_k / v); returns the sum of product[k] d_k / v.
template <class Pairs, int k = 0, class T>
FR_HD T weigh(const T* distance, T inverse, const T* grad, int64_t stride, T* product) {
  if constexpr (k < Pairs::count) {
    const T ratio = distance[k] * inverse;
    product[k] = grad[k * stride] * exp_minus(ratio);
    return product[k] * ratio + weigh<Pairs, k + 1>(distance, inverse, grad, stride, product);
  }
  return T(0);
}

// The slope of the loss against d_k: (shared - product[k]) / v.
template <class Pairs, int k = 0, class T>
FR_HD void put_slopes(T shared, T inverse, const T* product, T* slope, int64_t stride) {
  if constexpr (k < Pairs::count) {
    slope[k * stride] = (shared - product[k]) * inverse;
    put_slopes<Pairs, k + 1>(shared, inverse, product, slope, stride);
  }
}

// All of one voxel's slopes from its distances, whose mean is v.
template <class Pairs, class T>
FR_HD void slopes_of(const T* distance, T v, T floor, const T* grad, int64_t grad_stride, T* slope, int64_t stride) {
  T product[Pairs::count];
  const T inverse = mind_inverse(v, floor);
  const T weighed = weigh<Pairs>(distance, inverse, grad, grad_stride, product);
  const T shared = v > floor ? weighed * (T(1) / T(Pairs::count)) : T(0);
  put_slopes<Pairs>(shared, inverse, product, slope, stride);
}

// push[m] += what the squared differences, sum[k * stride] times each, push place m by.
template <class Pairs, int k = 0, class T>
FR_HD void add_pushes(const T (&value)[kPlaces], const T* weight, T (&push)[kPlaces]) {
  if constexpr (k < Pairs::count) {
    constexpr int a = Pairs::a(k), b = Pairs::b(k);
    const T amount = weight[k] * (value[a] - value[b]);
    push[a] += amount;
    push[b] -= amount;
    add_pushes<Pairs, k + 1>(value, weight, push);
  }
}

}  // namespace fastreg
