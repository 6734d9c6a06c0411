#include "anchor_grid.h"

#include <algorithm>
#include <string>

#include "box_columns.h"

namespace detops {
namespace {
// The first row of locations, [x1, y1, x2, y2] after [x1, y1, x2, y2]: in the others only y1 and y2 differ.
template <typename T>
std::vector<acc_t<T>> first_row(const AnchorLevel& level) {
  using A = acc_t<T>;
  std::vector<A> row(4 * level.row_size());
  A* to = row.data();
  for (int64_t x = 0; x < level.width; ++x) {
    const A shift = anchor_shift<T>(x, level.stride_x);
    for (int64_t i = 0; i < level.cell.size; ++i, to += 4) {
      const Box<A> anchor = level.cell.load<A>(0, i);
      to[0] = anchor.x1 + shift, to[1] = anchor.y1, to[2] = anchor.x2 + shift, to[3] = anchor.y2;
    }
  }
  return row;
}

template <typename Isa, typename T>
DETOPS_HD void shift_row(const acc_t<T>* from, int64_t count, acc_t<T> shift, T* to) {
  using A = acc_t<T>;
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  V shifts{};
  for (int64_t k = 1; k < kLanes; k += 2) shifts[k] = shift;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load<V>(from + i) + shifts);
  for (; i < count; ++i) to[i] = static_cast<T>(from[i] + (i % 2 ? shift : A(0)));
}

template <typename T>
void anchor_grid_cpu(const std::vector<AnchorLevel>& levels, int64_t total, T* anchors) {
  parallel_for(total, grain_for(0.3), [&](int64_t begin, int64_t end) {
    for (const AnchorLevel& level : levels) {
      const int64_t row_size = level.row_size();
      if (row_size == 0) continue;
      const auto rows_before = [&](int64_t anchor) {  // those that begin before it
        return std::clamp<int64_t>((anchor - level.first + row_size - 1) / row_size, 0, level.height);
      };
      const int64_t first = begin <= level.first ? 0 : rows_before(begin);
      const int64_t last = end <= level.first ? 0 : rows_before(end);
      if (first >= last) continue;
      const std::vector<acc_t<T>> row = first_row<T>(level);
      simd([&](auto isa) DETOPS_INLINE {
        for (int64_t y = first; y < last; ++y) {
          T* to = anchors + 4 * (level.first + y * row_size);
          shift_row<decltype(isa)>(row.data(), 4 * row_size, anchor_shift<T>(y, level.stride_y), to);
        }
      });
    }
  });
}

// Of one level at least: the dispatcher knows no device without a tensor.
void check(const std::vector<Tensor>& cell_anchors, const std::vector<int64_t>& sizes,
           const std::vector<int64_t>& strides) {
  const char* op = "anchor_grid";
  const size_t levels = cell_anchors.size();
  if (sizes.size() != 2 * levels) {
    fail(op, "expected feature_sizes of ", levels, " levels, got ", sizes.size() / 2);
  }
  if (strides.size() != 2 * levels) fail(op, "expected strides of ", levels, " levels, got ", strides.size() / 2);
  for (size_t i = 0; i < levels; ++i) {
    const std::string name = "cell_anchors[" + std::to_string(i) + "]";
    check_floating(op, name.c_str(), cell_anchors[i]);
    check_shape(op, name.c_str(), cell_anchors[i], {kAny, 4});
    check_same_dtype(op, "cell_anchors[0]", cell_anchors[0], name.c_str(), cell_anchors[i]);
    check_same_device(op, "cell_anchors[0]", cell_anchors[0], name.c_str(), cell_anchors[i]);
    if (sizes[2 * i] < 0 || sizes[2 * i + 1] < 0) {
      fail(op, "expected feature_sizes[", i, "] of 0 or more, got (", sizes[2 * i], ", ", sizes[2 * i + 1], ")");
    }
  }
}
}  // namespace

// Sizes and strides are those of a level after those of another: height, width.
Tensor anchor_grid(const std::vector<Tensor>& cell_anchors, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides) {
  check(cell_anchors, sizes, strides);
  std::vector<AnchorLevel> levels;
  int64_t total = 0;
  for (size_t i = 0; i < cell_anchors.size(); ++i) {
    levels.push_back(
        {BoxView(cell_anchors[i]), sizes[2 * i], sizes[2 * i + 1], strides[2 * i], strides[2 * i + 1], total});
    total += levels.back().size();
  }
  Tensor anchors = new_tensor<2>(cell_anchors[0], {total, 4}, cell_anchors[0].scalar_type());
  dispatch_floating("anchor_grid", anchors, [&](auto type) {
    using T = typename decltype(type)::type;
    T* to = mutable_data<T>(anchors);
    dispatch_device(
        anchors, [&] { anchor_grid_cpu(levels, total, to); },
        [&](void* stream) { anchor_grid_cuda(levels, to, stream); });
  });
  return anchors;
}
DETOPS_OP(anchor_grid, "(Tensor[] cell_anchors, SymInt[] sizes, SymInt[] strides) -> Tensor")
}  // namespace detops
