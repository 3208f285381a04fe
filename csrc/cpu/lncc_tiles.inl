// A tile of the local correlation: which sweep it needs, and the table of this instruction set's entry points.
#include "cpu/lncc_sweep.inl"

namespace fastreg::cpu {
namespace {

// Calls `of` with the sweep for a number of gradients, with or without a mask.
template <class T, class Of>
auto with_sweep(const LnccPlan& plan, int64_t rows, char* memory, const Of& of) {
  const auto kind = [&](auto gradients) {
    constexpr int count = decltype(gradients)::value;
    if (plan.masked) return of(Sweep<T, count, true>(plan, rows, memory));
    return of(Sweep<T, count, false>(plan, rows, memory));
  };
  if (plan.gradients == 0) return kind(std::integral_constant<int, 0>());
  if (plan.gradients == 1) return kind(std::integral_constant<int, 1>());
  return kind(std::integral_constant<int, 2>());
}

// What a mask says of the voxels z0 <= z < z1, y0 <= y < y1 and every x: all 1, none above 0, or neither.
enum class Covered { all, none, some };

template <class T>
Covered covered(const LnccPlan& p, const T* mask, const LnccTile& box) {
  bool all = true, none = true;
  for (int64_t z = max_of(box.z0, 0); z < min_of(box.z1, p.depth); ++z)
    for (int64_t y = max_of(box.y0, 0); y < min_of(box.y1, p.height); ++y) {
      const T* row = mask + (z * p.height + y) * p.width;
      int ones = 1, counting = 0;
      for (int64_t x = 0; x < p.width; ++x) {
        ones &= row[x] == T(1);
        counting |= row[x] > T(0);
      }
      all = all && ones;
      none = none && !counting;
      if (!all && !none) return Covered::some;
    }
  return all ? Covered::all : Covered::none;
}

LnccTile around(const LnccPlan& p, const LnccTile& tile, int windows) {
  const int64_t y = windows * p.half_y, z = windows * p.half_z;
  return {tile.z0 - z, tile.z1 + z, tile.y0 - y, tile.y1 + y};
}

template <class T>
void clear(const LnccPlan& p, void* gradient, const LnccTile& tile) {
  for (int64_t z = tile.z0; z < tile.z1 && gradient; ++z)
    fill(static_cast<T*>(gradient) + (z * p.height + tile.y0) * p.width, (tile.y1 - tile.y0) * p.width, T(0));
}

template <class T>
double sweep(LnccPlan plan, LnccImage image, const LnccTile& tile, char* memory) {
  if (plan.masked) {  // most tiles lie inside of the mask or outside of it
    const T* const mask = static_cast<const T*>(image.mask);
    const bool weights_windows = image.weight == image.mask;
    const int gradients = plan.gradients > 0;
    if (covered(plan, mask, around(plan, tile, 1 + gradients)) == Covered::all) {
      plan.masked = false;
      if (weights_windows) image.weight = nullptr;
    } else if (weights_windows && !image.map && covered(plan, mask, around(plan, tile, gradients)) == Covered::none) {
      clear<T>(plan, image.grad_a, tile);
      clear<T>(plan, image.grad_b, tile);
      return 0;
    }
  }
  return with_sweep<T>(plan, tile.y1 - tile.y0, memory, [&](auto sweep) {
    const double sum = sweep.run(image, tile, false);
    return sweep.has_nonfinite() ? sweep.run(image, tile, true) : sum;
  });
}

template <class T>
size_t scratch(const LnccPlan& plan, int64_t rows) {
  return with_sweep<T>(plan, rows, nullptr, [](auto sweep) { return sweep.bytes; });
}

double run(const LnccPlan& plan, const LnccImage& image, const LnccTile& tile, DType dtype, char* memory) {
  return dtype == DType::f32 ? sweep<float>(plan, image, tile, memory) : sweep<double>(plan, image, tile, memory);
}

size_t bytes(const LnccPlan& plan, DType dtype, int64_t rows) {
  return dtype == DType::f32 ? scratch<float>(plan, rows) : scratch<double>(plan, rows);
}

}  // namespace

const LnccSweep FR_SWEEP{bytes, run};

}  // namespace fastreg::cpu
