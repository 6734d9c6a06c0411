#include "../core/launch.h"
#include "masks_to_boxes.h"

// A block reads some rows of a mask, 16 bytes a thread where they lie without gaps: bound by bytes. Where a mask has
// several blocks, a second kernel joins what they found.
namespace detops {
namespace {
constexpr int kThreads = 256;

struct Extent : MaskExtent {
  DETOPS_D explicit Extent(int64_t far) : MaskExtent{far, far, -1, -1} {}

  DETOPS_D void add(const MaskExtent& other) {
    x1 = min(x1, other.x1), y1 = min(y1, other.y1);
    x2 = max(x2, other.x2), y2 = max(y2, other.y2);
  }
  DETOPS_D void add(int64_t x, int64_t y) { add({x, y, x, y}); }

  // Over the block.
  DETOPS_D void reduce(int64_t far) {
    const auto most = [](int64_t a, int64_t b) { return max(a, b); };
    const auto least = [](int64_t a, int64_t b) { return min(a, b); };
    x1 = block_reduce(x1, far, least), y1 = block_reduce(y1, far, least);
    x2 = block_reduce(x2, int64_t{-1}, most), y2 = block_reduce(y2, int64_t{-1}, most);
  }
};

template <typename U>
DETOPS_D int64_t far_of(const MasksArgs<U>& a) {
  return max(a.masks.width, a.masks.height);
}

DETOPS_D void write(const MaskExtent& extent, float* box) {
  const bool empty = extent.x2 < 0;
  box[0] = empty ? 0.0f : static_cast<float>(extent.x1), box[1] = empty ? 0.0f : static_cast<float>(extent.y1);
  box[2] = empty ? 0.0f : static_cast<float>(extent.x2), box[3] = empty ? 0.0f : static_cast<float>(extent.y2);
}

// Elements [i, i + count) of rows that lie end to end: of those that are set the first and the last tell all, unless
// they are in different rows.
template <typename U>
DETOPS_D void add_pack(const U* values, int64_t i, int64_t width, U counted, Extent& extent) {
  constexpr int kSize = Pack<U>::size;
  int first = kSize, last = -1;
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    if (!is_set(values[k], counted)) continue;
    first = first < k ? first : k;
    last = k;
  }
  if (last < 0) return;
  const int64_t y = (i + first) / width, x = i + first - y * width;
  if (x + (last - first) < width) {
    extent.add({x, y, x + (last - first), y});
    return;
  }
#pragma unroll  // so that the values stay in registers
  for (int k = 0; k < kSize; ++k) {
    if (is_set(values[k], counted)) extent.add((i + k) % width, (i + k) / width);
  }
}

template <typename U>
__global__ void __launch_bounds__(kThreads) masks_to_boxes_kernel(MasksArgs<U> a) {
  const RawMasks& masks = a.masks;
  const int64_t mask = blockIdx.x / a.divided.parts, part = blockIdx.x % a.divided.parts;
  const int64_t first_row = part * a.divided.rows, end_row = min(first_row + a.divided.rows, masks.height);
  const int64_t begin = first_row * masks.width, end = end_row * masks.width;
  const U* data = reinterpret_cast<const U*>(masks.data) + mask * masks.mask_stride;
  const int thread = static_cast<int>(threadIdx.x);
  Extent extent(far_of(a));
  const auto visit = [&](int64_t i) {
    const int64_t y = i / masks.width, x = i - y * masks.width;
    if (is_set(data[y * masks.row_stride + x * masks.column_stride], a.counted)) extent.add(x, y);
  };
  int64_t packs_begin = end, packs_end = end;
  if (masks.column_stride == 1 && (masks.row_stride == masks.width || masks.height == 1)) {
    constexpr int64_t kSize = Pack<U>::size;
    const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data + begin) % 16 / sizeof(U));
    packs_begin = min(end, begin + (kSize - past) % kSize);
    packs_end = packs_begin + (end - packs_begin) / kSize * kSize;
    for (int64_t i = packs_begin + thread * kSize; i < packs_end; i += kThreads * kSize) {
      const auto pack = *reinterpret_cast<const Pack<U>*>(data + i);
      add_pack(pack.values, i, masks.width, a.counted, extent);
    }
  }
  for (int64_t i = begin + thread; i < packs_begin; i += kThreads) visit(i);
  for (int64_t i = packs_end + thread; i < end; i += kThreads) visit(i);
  extent.reduce(far_of(a));
  if (thread > 0) return;
  if (a.extents == nullptr) {
    write(extent, a.boxes + 4 * mask);
  } else {
    a.extents[blockIdx.x] = extent;
  }
}

template <typename U>
__global__ void __launch_bounds__(kThreads) join_kernel(MasksArgs<U> a) {
  DETOPS_GRID_STRIDE(mask, a.masks.count) {
    Extent extent(far_of(a));
    for (int64_t part = 0; part < a.divided.parts; ++part) extent.add(a.extents[mask * a.divided.parts + part]);
    write(extent, a.boxes + 4 * mask);
  }
}
}  // namespace

template <typename U>
void masks_to_boxes_cuda(const MasksArgs<U>& args, void* stream) {
  const char* op = "masks_to_boxes";
  launch(op, masks_to_boxes_kernel<U>, {args.masks.count * args.divided.parts, kThreads}, stream, args);
  if (args.extents != nullptr) launch(op, join_kernel<U>, grid_for(args.masks.count, kThreads), stream, args);
}

template void masks_to_boxes_cuda<uint8_t>(const MasksArgs<uint8_t>&, void*);
template void masks_to_boxes_cuda<uint16_t>(const MasksArgs<uint16_t>&, void*);
template void masks_to_boxes_cuda<uint32_t>(const MasksArgs<uint32_t>&, void*);
template void masks_to_boxes_cuda<uint64_t>(const MasksArgs<uint64_t>&, void*);
}  // namespace detops
