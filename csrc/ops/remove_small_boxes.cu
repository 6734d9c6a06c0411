#include "box_fours.h"
#include "remove_small_boxes.h"

// The first kernel reads the boxes, bound by bytes, and leaves a bit for each and a count for each block. The second
// one turns bits into indices; each of its blocks adds up the counts of those before it.
namespace detops {
namespace {
constexpr int kThreads = static_cast<int>(RowParts::kTile);

template <typename T, bool kFours>
DETOPS_D Box<T> read(const RawBoxes& boxes, int64_t i) {
  if constexpr (kFours) return read_row<T, T, true>(boxes, 0, i);
  const T* row = reinterpret_cast<const T*>(boxes.data) + i * boxes.row_stride;
  return {row[0], row[boxes.column_stride], row[2 * boxes.column_stride], row[3 * boxes.column_stride]};
}

template <typename T, bool kFours>
__global__ void __launch_bounds__(kThreads) mark_kernel(RemoveSmallArgs a) {
  using A = acc_t<T>;
  const A least = static_cast<A>(a.least);
  const int64_t begin = blockIdx.x * a.divided.rows, end = min(begin + a.divided.rows, a.boxes.size);
  int64_t count = 0;
  for (int64_t first = begin; first < end; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    bool kept = false;
    if (i < end) {
      const Box<T> box = read<T, kFours>(a.boxes, i);
      kept = side<A>(box.x1, box.x2) >= least && side<A>(box.y1, box.y2) >= least;
    }
    const RowBits bits = ballot(kept);
    if (lane_id() == 0 && i < end) a.bits[i / kBitsOfRows] = bits;
    count += kept;
  }
  count = block_sum(count);
  if (threadIdx.x == 0) a.counts[blockIdx.x] = count;
}

__global__ void __launch_bounds__(kThreads) index_kernel(RemoveSmallArgs a) {
  const int64_t part = blockIdx.x;
  int64_t before = 0;
  for (int64_t k = threadIdx.x; k < part; k += kThreads) before += a.counts[k];
  before = block_sum(before);
  const int64_t begin = part * a.divided.rows, end = min(begin + a.divided.rows, a.boxes.size);
  for (int64_t first = begin; first < end; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const bool kept = i < end && (a.bits[i / kBitsOfRows] >> (i % kBitsOfRows) & 1) != 0;
    const auto kept_ones = block_scan(static_cast<int>(kept));
    if (kept) a.keep[before + kept_ones.before] = i;
    before += kept_ones.total;
  }
  if (threadIdx.x == 0 && part == a.divided.parts - 1) *a.count = before;
}
}  // namespace

template <typename T>
void remove_small_boxes_cuda(const RemoveSmallArgs& args, void* stream) {
  const char* op = "remove_small_boxes";
  const Grid grid{args.divided.parts, kThreads};
  const bool fours = in_fours<T>(args.boxes, torch::headeronly::CppTypeToScalarType<T>::value);
  launch(op, fours ? mark_kernel<T, true> : mark_kernel<T, false>, grid, stream, args);
  launch(op, index_kernel, grid, stream, args);
}

#define INSTANTIATE(T) template void remove_small_boxes_cuda<T>(const RemoveSmallArgs&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
INSTANTIATE(uint8_t)
INSTANTIATE(int8_t)
INSTANTIATE(int16_t)
INSTANTIATE(int32_t)
INSTANTIATE(int64_t)
}  // namespace detops
