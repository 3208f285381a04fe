// Adam at one component of one voxel, and the filter that its updates go through.
#pragma once
#include <cmath>

#include "api.h"
#include "common/portable.h"

namespace fastreg {

constexpr int kMostPasses = 4;

template <class T>
struct AdamRates {
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta
  T mean_scale, square_scale;    // 1 / (1 - beta^count): the moments begin at 0
  T eps;

  explicit AdamRates(const AdamArgs& args)
      : beta1(T(args.beta1)),
        rest1(T(1 - args.beta1)),
        beta2(T(args.beta2)),
        rest2(T(1 - args.beta2)),
        mean_scale(T(1 / (1 - std::pow(args.beta1, double(args.count))))),
        square_scale(T(1 / (1 - std::pow(args.beta2, double(args.count))))),
        eps(T(args.eps)) {}
};

// The update; changes the moments.
template <class T>
FR_HD T adam_update(T grad, T& mean, T& square, const AdamRates<T>& rates) {
  mean = rates.beta1 * mean + rates.rest1 * grad;
  square = rates.beta2 * square + rates.rest2 * grad * grad;
  return mean * rates.mean_scale / (std::sqrt(square * rates.square_scale) + rates.eps);
}

// Where index `at` of an axis lies when the axis goes on as its mirror image, the border voxel repeated.
FR_HD int64_t mirrored(int64_t at, int64_t size) {
  if (at >= 0 && at < size) return at;
  const int64_t period = 2 * size, inside = (at % period + period) % period;
  return inside < size ? inside : period - 1 - inside;
}

// Weights of the filter (1 2 1) / 4 done `passes` times: a row of Pascal's triangle over 4^passes, the centre first.
// Under mirroring one long filter is the same as many short ones.
template <class T>
struct Binomial {
  T weight[kMostPasses + 1];

  explicit FR_HD Binomial(int passes) {
    T count = 1, scale = 1;  // 2 passes over passes - k
    for (int k = 1; k <= passes; ++k) {
      count = count * T(passes + k) / T(k);
      scale /= 4;
    }
    for (int k = 0; k <= passes; ++k) {
      weight[k] = count * scale;
      count = count * T(passes - k) / T(passes + k + 1);
    }
  }
};

}  // namespace fastreg
