// The local correlation of one window and, beside it, its derivatives: shared by every device.
// V is a number or a vector of numbers; comparisons select lane by lane.
#pragma once
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "api.h"
#include "common/portable.h"

namespace fastreg {

// Window sums of the two images, each less a constant of its own.
template <class V>
struct LnccSums {
  V a, b, aa, bb, ab;
};

// A form (api.h) as numbers, so that one formula without branches serves every definition.
template <class S>
struct LnccRule {
  S var_least, var_add;  // the floored variance is max(v, var_least) + var_add
  S cross_least;
  S num_eps, den_eps;
  S flat_eps, flat;
  S most;  // of the value
  bool mean;
  bool plain;  // no cross_least, no flat, no var_add, no mean, squared
  bool squared;
  S noise;  // a variance below this part of the sum of squares is rounding: 0
};

FR_HD LnccRule<double> lncc_rule(const LnccForm& form, double infinity) {
  LnccRule<double> rule{};
  rule.var_least = form.floor == Floor::none ? -infinity : form.floor == Floor::max ? form.floor_eps : 0.0;
  rule.var_add = form.floor == Floor::add ? form.floor_eps : 0.0;
  rule.cross_least = form.cross_floor ? form.floor_eps : -infinity;
  rule.num_eps = form.num_eps;
  rule.den_eps = form.den_eps;
  rule.flat_eps = form.flat_eps;
  rule.flat = form.flat;
  rule.most = form.clamp ? 1.0 : infinity;
  rule.mean = form.mean;
  rule.plain = form.floor != Floor::add && !form.cross_floor && !form.mean && form.flat_eps < 0 && form.squared;
  rule.squared = form.squared;
  rule.noise = 1e-13;
  return rule;
}

// The value, and its derivatives by the window's covariance (as a sum: c) and twice those by its variances.
template <class V>
struct LnccWindow {
  V cc, mean_a, mean_b, slope_c, slope_aa, slope_bb;
};

template <class V>
FR_HD V root(V v) {
  if constexpr (std::is_arithmetic<V>::value) return std::sqrt(v);
  else {
    for (size_t lane = 0; lane < sizeof(v) / sizeof(v[0]); ++lane) v[lane] = std::sqrt(v[lane]);
    return v;
  }
}

// inv_n is 1 / the number of voxels of the window; drift_aa and drift_bb are what running sums of squares may have kept
// of values that left (0 for fresh sums). `plain` may be set where rule.plain is. NaN in, NaN out: every comparison
// keeps it.
template <bool plain, class V, class S>
FR_HD LnccWindow<V> lncc_window(const LnccSums<V>& s, V inv_n, V drift_aa, V drift_bb, const LnccRule<S>& rule) {
  const V zero = V{};
  LnccWindow<V> out;
  out.mean_a = s.a * inv_n;
  out.mean_b = s.b * inv_n;
  V c = s.ab - out.mean_a * s.b;
  V a = s.aa - out.mean_a * s.a;
  V b = s.bb - out.mean_b * s.b;
  // Rounding noise counts as 0, or it would be divided by itself.
  const auto noise_a = a <= rule.noise * s.aa + drift_aa, noise_b = b <= rule.noise * s.bb + drift_bb;
  a = noise_a ? zero : a;
  b = noise_b ? zero : b;
  c = (noise_a | noise_b) ? zero : c;
  if (!plain && rule.mean) {
    a *= inv_n;
    b *= inv_n;
    c *= inv_n;
  }
  const V least = zero + rule.var_least;
  V floored_a = a < least ? least : a, floored_b = b < least ? least : b;
  V crossed = c;
  if (!plain) {
    floored_a += rule.var_add;
    floored_b += rule.var_add;
    crossed = c < rule.cross_least ? zero + rule.cross_least : c;
  }
  V product = floored_a * floored_b, numerator = crossed * crossed;
  if (!plain && !rule.squared) {
    product = root(product > zero ? product : zero);
    numerator = crossed;
  }
  V inv_den = S(1) / (product + rule.den_eps);
  const V value = (numerator + rule.num_eps) * inv_den;
  const auto clamped = value > rule.most;
  out.cc = clamped ? zero + rule.most : value;
  inv_den = clamped ? zero : inv_den;  // and with it every slope
  if (!plain) {
    const V variances = a * b;
    const auto flat = (variances < zero ? -variances : variances) <= rule.flat_eps;
    out.cc = flat ? zero + rule.flat : out.cc;
    inv_den = flat ? zero : inv_den;
    if (rule.mean) inv_den *= inv_n;
  }
  out.slope_c = S(2) * crossed * inv_den;
  V twice = S(-2) * out.cc * inv_den;
  if (!plain && !rule.squared) {
    out.slope_c = inv_den;
    twice = product > zero ? S(0.5) * twice / product : zero;
  }
  if (!plain) out.slope_c = c <= rule.cross_least ? zero : out.slope_c;
  out.slope_aa = a <= least ? zero : twice * floored_b;
  out.slope_bb = b <= least ? zero : twice * floored_a;
  return out;
}

}  // namespace fastreg
