// Most pairs of a tile are far apart. The block first finds those that are not and lines them up, so that the threads
// of a warp then have pairs to compute alike.
#include "../core/launch.h"
#include "box_iou_rotated.h"

namespace detops {
namespace {
constexpr int kThreads = 128, kRows = 32, kColumns = 128;

template <typename Out>
struct TileArgs {
  BoxIouRotatedArgs<Out> of;
  int64_t row_tiles, column_tiles;
};

template <typename Out>
__global__ void __launch_bounds__(kThreads) box_iou_rotated_kernel(TileArgs<Out> a) {
  DETOPS_SHARED(rows, RotatedBox<double>[kRows]);
  DETOPS_SHARED(columns, RotatedBox<double>[kColumns]);
  DETOPS_SHARED(pairs, uint16_t[kRows * kColumns]);
  DETOPS_SHARED(num_pairs, int);
  const int64_t n = a.of.boxes1.size, m = a.of.boxes2.size, strip = blockIdx.x / a.column_tiles;
  const int64_t image = strip / a.row_tiles, first_row = strip % a.row_tiles * kRows;
  const int64_t first_column = blockIdx.x % a.column_tiles * kColumns;
  const int num_rows = static_cast<int>(min<int64_t>(kRows, n - first_row));
  const int num_columns = static_cast<int>(min<int64_t>(kColumns, m - first_column));
  const int thread = static_cast<int>(threadIdx.x);
  Out* output = a.of.output + (image * n + first_row) * m + first_column;
  if (thread == 0) num_pairs = 0;
  if (thread < num_rows) rows[thread] = load_rotated(a.of.boxes1, image, first_row + thread, a.of.convention);
  if (thread < num_columns) {
    columns[thread] = load_rotated(a.of.boxes2, image, first_column + thread, a.of.convention);
  }
  __syncthreads();
  if (thread < num_columns) {
    const RotatedBox<double> column = columns[thread];
    for (int row = 0; row < num_rows; ++row) {
      output[row * m + thread] = Out(0);
      if (near_each_other(rows[row], column)) {
        pairs[atomic_add(&num_pairs, 1)] = static_cast<uint16_t>(row * kColumns + thread);
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < num_pairs; i += kThreads) {
    const int row = pairs[i] / kColumns, column = pairs[i] % kColumns;
    output[row * m + column] = static_cast<Out>(rotated_overlap(rows[row], columns[column], a.of.over_first));
  }
}

template <typename Out>
__global__ void __launch_bounds__(kThreads) box_iou_rotated_aligned_kernel(BoxIouRotatedArgs<Out> a) {
  DETOPS_GRID_STRIDE(i, a.images * a.boxes1.size) {
    const int64_t image = i / a.boxes1.size, box = i % a.boxes1.size;
    a.output[i] = static_cast<Out>(rotated_overlap(load_rotated(a.boxes1, image, box, a.convention),
                                                   load_rotated(a.boxes2, image, box, a.convention), a.over_first));
  }
}
}  // namespace

template <typename Out>
void box_iou_rotated_cuda(const BoxIouRotatedArgs<Out>& args, void* stream) {
  const int64_t row_tiles = (args.boxes1.size + kRows - 1) / kRows;
  const int64_t column_tiles = (args.boxes2.size + kColumns - 1) / kColumns;
  launch("box_iou_rotated", box_iou_rotated_kernel<Out>, {args.images * row_tiles * column_tiles, kThreads}, stream,
         {args, row_tiles, column_tiles});
}

template <typename Out>
void box_iou_rotated_aligned_cuda(const BoxIouRotatedArgs<Out>& args, void* stream) {
  launch("box_iou_rotated", box_iou_rotated_aligned_kernel<Out>, grid_for(args.images * args.boxes1.size, kThreads),
         stream, args);
}

template void box_iou_rotated_cuda(const BoxIouRotatedArgs<float>&, void*);
template void box_iou_rotated_cuda(const BoxIouRotatedArgs<double>&, void*);
template void box_iou_rotated_aligned_cuda(const BoxIouRotatedArgs<float>&, void*);
template void box_iou_rotated_aligned_cuda(const BoxIouRotatedArgs<double>&, void*);
}  // namespace detops
