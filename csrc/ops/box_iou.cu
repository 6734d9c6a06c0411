#include "../core/launch.h"
#include "box_iou.h"

namespace detops {
namespace {
constexpr int kThreads = 256;

// A box and what scores need of it, found once for many pairs.
template <typename A>
struct Known {
  Box<A> box;
  BoxTraits<A> traits;
};

template <Overlap kKind, typename A>
DETOPS_D Known<A> know(const RawBoxes& boxes, int64_t image, int64_t i) {
  const Box<A> box = boxes.load<A>(image, i);
  return {box, {area(box), kKind == Overlap::kComplete ? aspect(box) : A{}}};
}

// ---- Forward: bound by the bytes written ---------------------------------------------------------------------------

constexpr int kColumns = 4;  // of a thread

template <typename Out>
struct ForwardArgs {
  BoxIouArgs<Out> of;
  int64_t row_tiles, column_tiles;
  int rows;       // of a tile, up to kThreads
  bool in_packs;  // a thread's columns are neighbours, stored 16 bytes at a time; else one block's width apart
};

// A block has the rows of its tile in shared memory, a thread its columns in registers; then it goes down the rows, and
// neighbouring threads write neighbouring scores.
template <Overlap kKind, typename A, typename Out>
__global__ void __launch_bounds__(kThreads) box_iou_kernel(ForwardArgs<Out> a) {
  DETOPS_SHARED(rows, Known<A>[kThreads]);
  const int64_t n = a.of.boxes1.size, m = a.of.boxes2.size, strip = blockIdx.x / a.column_tiles;
  const int64_t image = strip / a.row_tiles, first_row = strip % a.row_tiles * a.rows;
  const int num_rows = static_cast<int>(min<int64_t>(a.rows, n - first_row));
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  if (thread < num_rows) rows[thread] = know<kKind, A>(a.of.boxes1, image, first_row + thread);

  const int64_t tile = blockIdx.x % a.column_tiles * blockDim.x;
  const int64_t first = a.in_packs ? (tile + threadIdx.x) * kColumns : tile * kColumns + threadIdx.x;
  const int apart = a.in_packs ? 1 : static_cast<int>(blockDim.x);
  Known<A> columns[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    columns[c] = know<kKind, A>(a.of.boxes2, image, min<int64_t>(first + c * apart, m - 1));
  }
  __syncthreads();
  const ScoreDenominators<A> denominators{static_cast<A>(a.of.eps)};
  for (int r = static_cast<int>(threadIdx.y); r < num_rows; r += static_cast<int>(blockDim.y)) {
    const Known<A> row = rows[r];
    Out* out = a.of.output + (image * n + first_row + r) * m + first;
    Out scores[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      scores[c] =
          static_cast<Out>(overlap<kKind>(row.box, columns[c].box, row.traits, columns[c].traits, denominators));
    }
    if (a.in_packs && first < m) {
      store_packs(out, scores);
    } else {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (first + c * apart < m) out[c * apart] = scores[c];
      }
    }
  }
}

// ---- Backward ------------------------------------------------------------------------------------------------------

constexpr int kWarps = kThreads / kWarp;

// The sums over the warp of four values, in 6 shuffles rather than 20: lane i gets that of value i % 4.
template <typename A>
DETOPS_D A warp_sums(const Box<A>& of) {
  const bool odd = lane_id() & 1, high = lane_id() & 2;
  const A x = (odd ? of.y1 : of.x1) + __shfl_xor_sync(kAllLanes, odd ? of.x1 : of.y1, 1);
  const A y = (odd ? of.y2 : of.x2) + __shfl_xor_sync(kAllLanes, odd ? of.x2 : of.y2, 1);
  A sum = (high ? y : x) + __shfl_xor_sync(kAllLanes, high ? x : y, 2);
#pragma unroll
  for (int apart = 4; apart < kWarp; apart *= 2) sum += __shfl_xor_sync(kAllLanes, sum, apart);
  return sum;
}

// A warp takes a row at a time, a lane a column of the tile: the row's sum goes through the warp at once, the column's
// stays with the lane until the end.
template <Overlap kKind, typename A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 2 : 3) box_iou_backward_kernel(BoxIouBackwardArgs<A> a) {
  DETOPS_SHARED(rows, Known<A>[kThreads]);
  DETOPS_SHARED(column_sums, A[kWarps][kWarp][4]);
  const int64_t n = a.boxes1.size, m = a.boxes2.size, strip = blockIdx.x / a.tiles.column_tiles;
  const int64_t column_tile = blockIdx.x % a.tiles.column_tiles, row_tile = strip % a.tiles.row_tiles;
  const int64_t image = strip / a.tiles.row_tiles, first_column = column_tile * BoxIouTiles::kColumns;
  const int64_t end_row = min(n, (row_tile + 1) * a.tiles.rows), j = first_column + lane_id();
  const Known<A> column = know<kKind, A>(a.boxes2, image, min(j, m - 1));
  const A* grad = a.grad + image * a.grad_image_stride + j * a.grad_column_stride;
  const ScoreDenominators<A> denominators{static_cast<A>(a.eps)};
  Box<A> d_column{};
  for (int64_t first_row = row_tile * a.tiles.rows; first_row < end_row; first_row += kThreads) {
    const int num_rows = static_cast<int>(min<int64_t>(kThreads, end_row - first_row));
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads();  // the rows before are done with
    if (thread < num_rows) rows[thread] = know<kKind, A>(a.boxes1, image, first_row + thread);
    __syncthreads();
    for (int r = warp_id(); r < num_rows; r += kWarps) {
      const int64_t i = first_row + r;
      const Known<A> row = rows[r];
      Box<A> d_row{};
      if (j < m) {
        overlap_backward<kKind>(row.box, column.box, row.traits, column.traits, denominators,
                                grad[i * a.grad_row_stride], d_row, d_column);
      }
      const A sum = warp_sums(d_row);
      if (lane_id() < 4) a.sums1[((column_tile * a.images + image) * n + i) * 4 + lane_id()] = sum;
    }
  }
  A* mine = column_sums[warp_id()][lane_id()];
  mine[0] = d_column.x1, mine[1] = d_column.y1, mine[2] = d_column.x2, mine[3] = d_column.y2;
  __syncthreads();
  const int column_of_sum = static_cast<int>(threadIdx.x) / 4, coordinate = static_cast<int>(threadIdx.x) % 4;
  if (column_of_sum < kWarp && first_column + column_of_sum < m) {
    A sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += column_sums[w][column_of_sum][coordinate];
    a.sums2[((row_tile * a.images + image) * m + first_column + column_of_sum) * 4 + coordinate] = sum;
  }
}

template <typename A>
struct SumTilesArgs {
  const A* tiles;  // (num_tiles, size)
  A* sums;         // (size)
  int64_t num_tiles, size;
};

// A lane adds up one element, each warp a part of its tiles.
template <typename A>
__global__ void __launch_bounds__(kThreads) sum_tiles_kernel(SumTilesArgs<A> a) {
  DETOPS_SHARED(parts, A[kWarps][kWarp]);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarp + lane_id();
  A sum = 0;
  if (i < a.size) {
    for (int64_t tile = warp_id(); tile < a.num_tiles; tile += kWarps) sum += a.tiles[tile * a.size + i];
  }
  parts[warp_id()][lane_id()] = sum;
  __syncthreads();
  if (warp_id() > 0 || i >= a.size) return;
  for (int w = 1; w < kWarps; ++w) sum += parts[w][lane_id()];
  a.sums[i] = sum;
}

template <typename A>
void sum_tiles(const char* op, const A* tiles, A* sums, int64_t num_tiles, int64_t size, void* stream) {
  if (num_tiles == 1) return;  // written to where they belong
  launch(op, sum_tiles_kernel<A>, {(size + kWarp - 1) / kWarp, kThreads}, stream, {tiles, sums, num_tiles, size});
}
}  // namespace

template <Overlap kKind, typename A, typename Out>
void box_iou_cuda(const char* op, const BoxIouArgs<Out>& args, void* stream) {
  constexpr int64_t kWide = 128, kManyRounds = 8;
  const int64_t n = args.boxes1.size, m = args.boxes2.size, groups = (m + kColumns - 1) / kColumns;
  const int64_t column_tiles = (groups + kWide - 1) / kWide, width = (groups + column_tiles - 1) / column_tiles;
  const int64_t height = kThreads / width;
  // A thread goes down several rows, unless that would leave multiprocessors without work.
  const int64_t rounds = n * column_tiles * args.images / (height * kManyBlocks);
  const int64_t rows = min<int64_t>(height * max<int64_t>(1, min(rounds, kManyRounds)), kThreads);
  const int64_t row_tiles = (n + rows - 1) / rows;
  launch(op, box_iou_kernel<kKind, A, Out>,
         {args.images * row_tiles * column_tiles, dim3(static_cast<unsigned>(width), static_cast<unsigned>(height))},
         stream, {args, row_tiles, column_tiles, static_cast<int>(rows), m % kColumns == 0});
}

template <Overlap kKind, typename A>
void box_iou_backward_cuda(const char* op, const BoxIouBackwardArgs<A>& args, void* stream) {
  const BoxIouTiles& tiles = args.tiles;
  launch(op, box_iou_backward_kernel<kKind, A>, {args.images * tiles.row_tiles * tiles.column_tiles, kThreads}, stream,
         args);
  sum_tiles(op, args.sums1, args.grad1, tiles.column_tiles, args.images * args.boxes1.size * 4, stream);
  sum_tiles(op, args.sums2, args.grad2, tiles.row_tiles, args.images * args.boxes2.size * 4, stream);
}

#define INSTANTIATE(KIND)                                                                          \
  template void box_iou_cuda<KIND, float>(const char*, const BoxIouArgs<float>&, void*);           \
  template void box_iou_cuda<KIND, double>(const char*, const BoxIouArgs<double>&, void*);         \
  template void box_iou_cuda<KIND, double>(const char*, const BoxIouArgs<float>&, void*);          \
  template void box_iou_backward_cuda<KIND>(const char*, const BoxIouBackwardArgs<float>&, void*); \
  template void box_iou_backward_cuda<KIND>(const char*, const BoxIouBackwardArgs<double>&, void*);
INSTANTIATE(Overlap::kIou)
INSTANTIATE(Overlap::kGeneralized)
INSTANTIATE(Overlap::kDistance)
INSTANTIATE(Overlap::kComplete)
}  // namespace detops
