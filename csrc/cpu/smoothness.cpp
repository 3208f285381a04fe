// Mean squared forward differences and their gradient in one sweep. The sum's order does not depend on the threads.
#include <vector>

#include "api.h"
#include "cpu/difference_row.h"
#include "cpu/each_isa.h"
#include "cpu/memory.h"

namespace fastreg::cpu {
namespace {

template <class T>
double smoothness_of(const SmoothnessArgs& args) {
  const Shape size = shape_of(args.size);
  const int64_t planes = args.batch * args.ndim * size.d;
  T slope[3];
  difference_slopes(args.ndim, args.batch, size, 1, slope);
  const auto row_function =
      args.grad ? for_isa<difference_row<Gradient::set, T>>() : for_isa<difference_row<Gradient::none, T>>();
  prefer_huge_pages(args.grad, planes * size.h * size.w * sizeof(T));
  std::vector<double> sums(planes);
#pragma omp parallel for num_threads(args.threads) schedule(static)
  for (int64_t p = 0; p < planes; ++p) {
    const int64_t image = p / size.d * size.count();
    const T* const flow = static_cast<const T*>(args.flow) + image;
    T* const grad = args.grad ? static_cast<T*>(args.grad) + image : nullptr;
    for (int64_t y = 0; y < size.h; ++y)
      sums[p] += row_function(difference_row_at(flow, size, p % size.d, y, slope, grad));
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

double smoothness(const SmoothnessArgs& args) {
  return args.dtype == DType::f64 ? smoothness_of<double>(args) : smoothness_of<float>(args);
}

}  // namespace fastreg::cpu
