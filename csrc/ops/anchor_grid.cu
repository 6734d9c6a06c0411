#include <algorithm>

#include "../core/launch.h"
#include "anchor_grid.h"

// A thread has an anchor, of any level: bound by the bytes written.
namespace detops {
namespace {
constexpr int kThreads = 256;
constexpr int kLevels = 16;  // of a launch

template <typename T>
struct LevelsArgs {
  AnchorLevel levels[kLevels];
  int num_levels;
  int64_t begin, end;  // anchors
  T* anchors;
};

template <typename T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Anchor {
  T x1, y1, x2, y2;
};

template <typename Index, typename T>
DETOPS_D Anchor<T> anchor_of(const AnchorLevel& level, Index i) {
  using A = acc_t<T>;
  const auto count = static_cast<Index>(level.cell.size), width = static_cast<Index>(level.width);
  const Index location = i / count;
  const Box<A> cell = level.cell.load<A>(0, i - location * count);
  const A x = anchor_shift<T>(location % width, level.stride_x), y = anchor_shift<T>(location / width, level.stride_y);
  return {static_cast<T>(cell.x1 + x), static_cast<T>(cell.y1 + y), static_cast<T>(cell.x2 + x),
          static_cast<T>(cell.y2 + y)};
}

template <typename T>
__global__ void __launch_bounds__(kThreads) anchor_grid_kernel(LevelsArgs<T> a) {
  DETOPS_GRID_STRIDE(k, a.end - a.begin) {
    const int64_t anchor = a.begin + k;
    int l = 0;
    while (l + 1 < a.num_levels && anchor >= a.levels[l + 1].first) ++l;
    const AnchorLevel& level = a.levels[l];
    const int64_t i = anchor - level.first;
    reinterpret_cast<Anchor<T>*>(a.anchors)[anchor] =
        is_narrow(i) ? anchor_of<uint32_t, T>(level, static_cast<uint32_t>(i)) : anchor_of<int64_t, T>(level, i);
  }
}
}  // namespace

template <typename T>
void anchor_grid_cuda(const std::vector<AnchorLevel>& levels, T* anchors, void* stream) {
  for (size_t begin = 0; begin < levels.size(); begin += kLevels) {
    const size_t count = std::min<size_t>(kLevels, levels.size() - begin);
    LevelsArgs<T> args{{}, static_cast<int>(count), levels[begin].first, 0, anchors};
    std::copy_n(levels.begin() + static_cast<int64_t>(begin), count, args.levels);
    const AnchorLevel& last = args.levels[count - 1];
    args.end = last.first + last.size();
    launch("anchor_grid", anchor_grid_kernel<T>, grid_for(args.end - args.begin, kThreads), stream, args);
  }
}

template void anchor_grid_cuda<float>(const std::vector<AnchorLevel>&, float*, void*);
template void anchor_grid_cuda<double>(const std::vector<AnchorLevel>&, double*, void*);
template void anchor_grid_cuda<Half>(const std::vector<AnchorLevel>&, Half*, void*);
template void anchor_grid_cuda<BFloat16>(const std::vector<AnchorLevel>&, BFloat16*, void*);
}  // namespace detops
