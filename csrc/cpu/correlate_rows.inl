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
  const W* centre;       // [channels, step]
  const W* const* rows;  // [count]: [channels, step], at the first displacement of voxel 0
  // Rows of memory that are wanted soon: asked for between the vectors, they come while the sums are made.
  const char* const* ahead;
  int64_t wanted;
  int64_t voxel_bytes;
};

template <class W>
FR_HD void ask_ahead(const Near<W>& near, int64_t x) {
  for (int64_t j = 0; j < near.wanted; ++j) __builtin_prefetch(near.ahead[j] + x * near.voxel_bytes, 0, 2);
}

// Calls of(aligned, rows, span, row, first) for blocks of rows and displacements. Three rows at a time: with all of them
// and all channels at once, what the next vectors need again would not stay in the first cache.
template <class W, class Of>
void in_blocks(const Near<W>& near, const Of& of) {
  using Three = std::integral_constant<int, 3>;
  using One = std::integral_constant<int, 1>;
  const auto spans = [&](auto take, int64_t row) {
    int64_t first = 0;
    for (; first + 3 <= near.reach; first += 3) {
#if FR_BYTES == 64
      if (is_aligned(near.rows[row] + first + 1)) {
        of(std::true_type(), take, Three(), row, first);
        continue;
      }
#endif
      of(std::false_type(), take, Three(), row, first);
    }
    for (; first < near.reach; ++first) of(std::false_type(), take, One(), row, first);
  };
  int64_t row = 0;
  for (; row + 3 <= near.count; row += 3) spans(Three(), row);
  for (; row < near.count; ++row) spans(One(), row);
}

template <bool ssd, bool aligned, int rows, int span, class W>
void score_block(const Near<W>& near, int64_t n, int64_t row, int64_t first, W scale, W* to, int64_t line) {
  const W* there[rows];
  FR_UNROLL_ALL
  for (int r = 0; r < rows; ++r) there[r] = near.rows[row + r] + first;
  const W* const centre = near.centre;
  const int64_t step = near.step, all = near.channels * step;
  for (int64_t x = 0; x < n; x += lanes_of<W>) {
    if (row == 0 && first == 0) ask_ahead(near, x);
    Vec<W> sum[rows][span] = {};
    for (int64_t at = x; at < x + all; at += step) {
      Vec<W> here = load(centre + at);
      keep(here);
      FR_UNROLL_ALL
      for (int r = 0; r < rows; ++r) {
        const Displaced<aligned, W> b(there[r] + at);
        FR_UNROLL_ALL
        for (int s = 0; s < span; ++s) {
          if constexpr (ssd) {
            const Vec<W> difference = here - b.at(s);
            sum[r][s] += difference * difference;
          } else {
            sum[r][s] += here * b.at(s);
          }
        }
      }
    }
    FR_UNROLL_ALL
    for (int r = 0; r < rows; ++r) {
      FR_UNROLL_ALL
      for (int s = 0; s < span; ++s) store(to + ((row + r) * near.reach + first + s) * line + x, scale * sum[r][s]);
    }
  }
}

// Voxels 0 <= x < n: to[k] = scale * sum over channels of centre * near, or of squared differences.
template <bool ssd, class W>
void score_rows(const Near<W>& near, int64_t n, W scale, W* to, int64_t line) {
  in_blocks(near, [&](auto aligned, auto rows, auto span, int64_t row, int64_t first) {
    score_block<ssd, decltype(aligned)::value, decltype(rows)::value, decltype(span)::value>(near, n, row, first, scale,
                                                                                             to, line);
  });
}

// Gradients to the scores: of row r and displacement s at rows[r] + s * step.
template <class W>
struct Slopes {
  const W* const* rows;
  int64_t step;
};

template <bool ssd, bool aligned, int rows, int span, class W>
void gather_block(const Near<W>& near, int64_t begin, int64_t end, int64_t row, int64_t first, const Slopes<W>& slopes,
                  W scale, W* to, bool add) {
  const W* there[rows];
  FR_UNROLL_ALL
  for (int r = 0; r < rows; ++r) there[r] = near.rows[row + r] + first;
  const W* const centre = near.centre;
  const int64_t step = near.step, all = near.channels * step;
  for (int64_t x = begin; x < end; x += lanes_of<W>) {
    if (row == 0 && first == 0) ask_ahead(near, x);
    Vec<W> g[rows][span];
    FR_UNROLL_ALL
    for (int r = 0; r < rows; ++r) {
      FR_UNROLL_ALL
      for (int s = 0; s < span; ++s) {
        g[r][s] = scale * load(slopes.rows[row + r] + (first + s) * slopes.step + x);
        keep(g[r][s]);
      }
    }
    for (int64_t at = x; at < x + all; at += step) {
      Vec<W> sum[span] = {}, here{};  // sums of their own do not wait for each other
      if constexpr (ssd) here = load(centre + at);
      FR_UNROLL_ALL
      for (int r = 0; r < rows; ++r) {
        const Displaced<aligned, W> b(there[r] + at);
        FR_UNROLL_ALL
        for (int s = 0; s < span; ++s) sum[s] += g[r][s] * (ssd ? b.at(s) - here : b.at(s));
      }
      Vec<W> total = add ? load(to + at) : Vec<W>{};
      FR_UNROLL_ALL
      for (int s = 0; s < span; ++s) total += sum[s];
      store(to + at, total);
    }
  }
}

// Voxels begin <= x < end: to[c] = scale * sum over displacements of slope * near, or of slope * (near - centre); with
// `add` added to it.
template <bool ssd, class W>
void gather_rows(const Near<W>& near, int64_t begin, int64_t end, const Slopes<W>& slopes, W scale, W* to, bool add) {
  if (begin >= end) return;
  in_blocks(near, [&](auto aligned, auto rows, auto span, int64_t row, int64_t first) {
    gather_block<ssd, decltype(aligned)::value, decltype(rows)::value, decltype(span)::value>(
        near, begin, end, row, first, slopes, scale, to, add || row > 0 || first > 0);
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
