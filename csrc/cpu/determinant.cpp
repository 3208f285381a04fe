// det(I + grad u), row by row.
#include <initializer_list>

#include "common/determinant_voxel.h"
#include "common/shape.h"
#include "cpu/each_isa.h"
#include "cpu/memory.h"

namespace fastreg::cpu {
namespace {

template <class T, int ndim>
struct DeterminantRow {
  int64_t n;
  Components<T, ndim> flow;
  Ends z, y, x;  // x: of a voxel inside the row
  T* out;
};

template <Scheme scheme, class T, int ndim>
FR_HD void determinant_row(const DeterminantRow<T, ndim>& given) {
  const DeterminantRow<T, ndim> row = given;
#pragma omp simd
  for (int64_t i = 1; i < row.n - 1; ++i) row.out[i] = determinant_at<scheme>(row.flow, i, row.z, row.y, row.x);
  for (const int64_t i : {int64_t(0), row.n - 1})
    row.out[i] = determinant_at<scheme>(row.flow, i, row.z, row.y, Ends(i, row.n, 1));
}

template <class T, int ndim>
void sweep(const DeterminantArgs& args) {
  const Shape size = shape_of(args.size);
  const auto row_function = args.scheme == Scheme::central ? for_isa<determinant_row<Scheme::central, T, ndim>>()
                                                           : for_isa<determinant_row<Scheme::least, T, ndim>>();
  prefer_huge_pages(args.out, args.batch * size.count() * sizeof(T));
#pragma omp parallel for num_threads(args.threads) schedule(static)
  for (int64_t k = 0; k < args.batch * size.rows(); ++k) {
    const int64_t image = k / size.rows(), z = k % size.rows() / size.h, y = k % size.h;
    const T* const flow = static_cast<const T*>(args.flow) + image * ndim * size.count() + size.at(z, y, 0);
    row_function({size.w, components_of<ndim>(flow, size.count()), Ends(z, size.d, size.h * size.w),
                  Ends(y, size.h, size.w), Ends(1, 3, 1), static_cast<T*>(args.out) + k * size.w});
  }
}

template <class T>
void by_ndim(const DeterminantArgs& args) {
  args.ndim == 2 ? sweep<T, 2>(args) : sweep<T, 3>(args);
}

}  // namespace

void determinant(const DeterminantArgs& args) {
  args.dtype == DType::f64 ? by_ndim<double>(args) : by_ndim<float>(args);
}

}  // namespace fastreg::cpu
