// Rows of the cost volume: scores, the gradients to either image, and the softmax over displacements. A row of an image
// has its channels `step` elements apart, of each `near` row the displacements along x are consecutive voxels.
#if defined(__clang__)
#define FR_UNROLL_ALL _Pragma("unroll")
#else
#define FR_UNROLL_ALL _Pragma("GCC unroll 32")
#endif
#include "cpu/correlate_vectors.inl"

namespace fastreg::cpu {
namespace {

// What the rows of one place share.
template <class W>
struct Near {
  int64_t channels, step;
  int64_t count;         // of rows
  int64_t reach;         // displacements along x
  int64_t n;             // voxels
  const W* centre;       // [channels, step]
  const W* const* rows;  // [count]: [channels, step], at the first displacement of voxel 0
};

// Calls of(rows, span, row, first) for blocks of rows and displacements whose sums fit the registers.
template <class Of>
void in_blocks(int64_t rows, int64_t reach, const Of& of) {
  const auto spans = [&](auto take, int64_t row) {
    int64_t first = 0;
    for (; first + 3 <= reach; first += 3) of(take, std::integral_constant<int, 3>(), row, first);
    for (; first < reach; ++first) of(take, std::integral_constant<int, 1>(), row, first);
  };
  int64_t row = 0;
#if FR_BYTES == 64 || FR_NEON  // 32 registers
  for (; row + 9 <= rows; row += 9) spans(std::integral_constant<int, 9>(), row);
#endif
  for (; row + 3 <= rows; row += 3) spans(std::integral_constant<int, 3>(), row);
  for (; row < rows; ++row) spans(std::integral_constant<int, 1>(), row);
}

template <bool ssd, int rows, int span, class W>
void score_block(const Near<W>& near, int64_t row, int64_t first, W scale, W* to, int64_t to_step) {
  const W* there[rows];
  FR_UNROLL_ALL
  for (int r = 0; r < rows; ++r) there[r] = near.rows[row + r] + first;
  const W* const centre = near.centre;
  const int64_t step = near.step, end = near.channels * step;
  for (int64_t x = 0; x < near.n; x += lanes_of<W>) {
    Vec<W> sum[rows][span] = {};
    for (int64_t at = x; at < x + end; at += step) {
      const Vec<W> here = load(centre + at);
      FR_UNROLL_ALL
      for (int r = 0; r < rows; ++r) {
        FR_UNROLL_ALL
        for (int s = 0; s < span; ++s) {
          const Vec<W> b = load(there[r] + at + s);
          if constexpr (ssd) {
            const Vec<W> difference = here - b;
            sum[r][s] += difference * difference;
          } else {
            sum[r][s] += here * b;
          }
        }
      }
    }
    FR_UNROLL_ALL
    for (int r = 0; r < rows; ++r) {
      FR_UNROLL_ALL
      for (int s = 0; s < span; ++s)
        store(to + ((row + r) * near.reach + first + s) * to_step + x, scale * sum[r][s]);
    }
  }
}

// to[k] = scale * sum over channels of centre * near, or of squared differences.
template <bool ssd, class W>
void score_rows(const Near<W>& near, W scale, W* to, int64_t to_step) {
  in_blocks(near.count, near.reach, [&](auto rows, auto span, int64_t row, int64_t first) {
    score_block<ssd, decltype(rows)::value, decltype(span)::value>(near, row, first, scale, to, to_step);
  });
}

template <bool ssd, int rows, int span, class W>
void gather_block(const Near<W>& near, int64_t row, int64_t first, const W* grad, int64_t grad_step, W scale, W* to,
                  bool add) {
  const W* there[rows];
  FR_UNROLL_ALL
  for (int r = 0; r < rows; ++r) there[r] = near.rows[row + r] + first;
  const W* const centre = near.centre;
  const int64_t step = near.step, end = near.channels * step;
  for (int64_t x = 0; x < near.n; x += lanes_of<W>) {
    Vec<W> g[rows][span];
    FR_UNROLL_ALL
    for (int r = 0; r < rows; ++r) {
      FR_UNROLL_ALL
      for (int s = 0; s < span; ++s) g[r][s] = load(grad + ((row + r) * near.reach + first + s) * grad_step + x);
    }
    for (int64_t at = x; at < x + end; at += step) {
      Vec<W> sum[span] = {};
      const Vec<W> here = ssd ? load(centre + at) : Vec<W>{};
      FR_UNROLL_ALL
      for (int r = 0; r < rows; ++r) {
        FR_UNROLL_ALL
        for (int s = 0; s < span; ++s) {
          const Vec<W> b = load(there[r] + at + s);
          sum[s] += g[r][s] * (ssd ? b - here : b);
        }
      }
      Vec<W> total = sum[0];
      FR_UNROLL_ALL
      for (int s = 1; s < span; ++s) total += sum[s];
      total *= scale;
      store(to + at, add ? load(to + at) + total : total);
    }
  }
}

// to[c] = scale * sum over displacements of grad * near, or of grad * (near - centre); with `add` added to it.
template <bool ssd, class W>
void gather_rows(const Near<W>& near, const W* grad, int64_t grad_step, W scale, W* to, bool add) {
  in_blocks(near.count, near.reach, [&](auto rows, auto span, int64_t row, int64_t first) {
    gather_block<ssd, decltype(rows)::value, decltype(span)::value>(near, row, first, grad, grad_step, scale, to,
                                                                   add || row > 0 || first > 0);
  });
}

// The displacements, and what the scores are multiplied by before the softmax.
template <class W>
struct Field {
  int ndim;
  int64_t count;
  const W* d[3];  // [count] each
  W slope;
};

// Scores [count, step] become weights that add up to 1 / `inverse`; the mean displacement goes to mean [ndim, step].
template <class W>
FR_HD Vec<W> soften(const Field<W>& field, W* scores, int64_t step, Vec<W> (&mean)[3]) {
  Vec<W> most = field.slope * load(scores), sum{};
  for (int64_t k = 0; k < field.count; ++k) {
    const Vec<W> v = field.slope * load(scores + k * step);
    most = v > most ? v : most;
  }
  for (int axis = 0; axis < 3; ++axis) mean[axis] = Vec<W>{};
  for (int64_t k = 0; k < field.count; ++k) {
    const Vec<W> e = exp_of<W>(field.slope * load(scores + k * step) - most);
    store(scores + k * step, e);
    sum += e;
    for (int axis = 0; axis < field.ndim; ++axis) mean[axis] += field.d[axis][k] * e;
  }
  const Vec<W> inverse = W(1) / sum;
  for (int axis = 0; axis < 3; ++axis) mean[axis] *= inverse;
  return inverse;
}

// Scores [count, step] -> the mean displacement [ndim, step]. Overwrites the scores.
template <class W>
void mean_rows(const Field<W>& field, W* scores, int64_t step, int64_t n, W* to) {
  for (int64_t x = 0; x < n; x += lanes_of<W>) {
    Vec<W> mean[3];
    soften(field, scores + x, step, mean);
    for (int axis = 0; axis < field.ndim; ++axis) store(to + axis * step + x, mean[axis]);
  }
}

// Scores [count, step] -> the gradient to them, from that to the mean displacement, grad [ndim, step].
template <class W>
void mean_backward_rows(const Field<W>& field, W* scores, int64_t step, int64_t n, const W* grad) {
  for (int64_t x = 0; x < n; x += lanes_of<W>) {
    Vec<W> mean[3], g[3] = {}, along{};
    const Vec<W> weight = soften(field, scores + x, step, mean) * field.slope;
    for (int axis = 0; axis < field.ndim; ++axis) {
      g[axis] = load(grad + axis * step + x);
      along += mean[axis] * g[axis];
    }
    for (int64_t k = 0; k < field.count; ++k) {
      Vec<W> rest = -along;
      for (int axis = 0; axis < field.ndim; ++axis) rest += field.d[axis][k] * g[axis];
      store(scores + k * step + x, weight * load(scores + k * step + x) * rest);
    }
  }
}

}  // namespace
}  // namespace fastreg::cpu
