// The cost volume on the CPU: cuts the work into tiles and gives them to threads. The sweep over a tile is in
// correlate_sweep.inl.
#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/portable.h"
#include "cpu/correlate_tile.h"
#include "cpu/memory.h"
#include "cpu/simd.h"

namespace fastreg::cpu {
namespace {

constexpr size_t kTileBytes =
    640 << 10;  // of scratch memory: with the rows that are read and written, what a cache has
constexpr int64_t kLeastRows = 4;
constexpr int64_t kLeastPlanes = 8;

const CorrelateSweep& chosen() {
#if FR_X86
  if (isa_level() >= Isa::avx512) return correlate_avx512;
  if (isa_level() >= Isa::avx2) return correlate_avx2;
#endif
  return correlate_baseline;
}

int64_t parts(int64_t length, int64_t most) { return (length + most - 1) / most; }

void correlate(const CorrelateArgs& args) {
  if (args.batch == 0) return;
  const CorrelateSweep& sweep = chosen();
  const int64_t depth = args.size[0], height = args.size[1];
  int64_t most = std::min(kLeastRows, height);
  while (most < height && sweep.scratch(args, most + 1) <= kTileBytes) ++most;
  const int64_t bands = parts(height, most);
  const int64_t wanted = parts(8 * args.threads, args.batch * bands);  // so that no thread waits long for the last
  const int64_t slabs = std::clamp<int64_t>(wanted, 1, parts(depth, kLeastPlanes));
  const int64_t jobs = args.batch * bands * slabs;
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(args.threads, jobs)));
  const size_t bytes = (sweep.scratch(args, most) + 64 + 4095) / 4096 * 4096;
  const auto memory = scratch<char>(int64_t(bytes) * threads + 64);
  char* const aligned = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64);

#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  {
#ifdef _OPENMP
    char* const own = aligned + bytes * size_t(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
#else
    char* const own = aligned;
#endif
    for (int64_t job = 0; job < jobs; ++job) {
      const int64_t y = job % bands, z = job / bands % slabs;
      sweep.run(args,
                {job / bands / slabs, depth * z / slabs, depth * (z + 1) / slabs, height * y / bands,
                 height * (y + 1) / bands},
                own);
    }
  }
}

int64_t bytes_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

}  // namespace

void correlate_forward(const CorrelateArgs& args) {
  int64_t count = 1;
  for (int axis = 0; axis < args.ndim; ++axis) count *= 2 * args.radius + 1;
  const int64_t voxels = args.size[0] * args.size[1] * args.size[2];
  if (args.sharpness == 0) prefer_huge_pages(args.out, args.batch * count * voxels * bytes_of(args.dtype));
  correlate(args);
}

void correlate_backward(const CorrelateArgs& args) {
  const int64_t elements = args.batch * args.channels * args.size[0] * args.size[1] * args.size[2];
  for (void* gradient : {args.grad_a, args.grad_b})
    if (gradient) prefer_huge_pages(gradient, elements * bytes_of(args.dtype));
  correlate(args);
}

}  // namespace fastreg::cpu
