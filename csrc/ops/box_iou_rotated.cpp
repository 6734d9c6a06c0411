#include "box_iou_rotated.h"

#include <algorithm>
#include <cstring>

#include "rotated_columns.h"

namespace detops {
namespace {
constexpr int64_t kMostPairs = 1024;  // that wait for their turn

template <typename Out>
struct WaitingPair {
  const Rotated *a, *b;
  Out* to;
};

// Scores of up to a vector's worth of pairs.
template <typename V, typename Out>
DETOPS_HD void score_pairs(const WaitingPair<Out>* pairs, int64_t count, bool over_first) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(double);
  const Rotated *a[kLanes], *b[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const WaitingPair<Out>& pair = pairs[std::min(lane, count - 1)];
    a[lane] = pair.a, b[lane] = pair.b;
  }
  double scores[kLanes];
  store(scores, rotated_overlap(gather<V>(a), gather<V>(b), over_first));
  for (int64_t lane = 0; lane < count; ++lane) *pairs[lane].to = static_cast<Out>(scores[lane]);
}

// Rows [begin, end) of the matrix. Most pairs are far apart: the others go into a list, so that vectors are full.
template <typename Isa, typename Out>
DETOPS_HD void overlap_rows(const RotatedColumns& a, const RotatedColumns& b, bool over_first, int64_t begin,
                            int64_t end, Out* output) {
  using V = PairVec<Isa>;
  constexpr int64_t kLanes = sizeof(V) / sizeof(double);
  WaitingPair<Out> waiting[kMostPairs + kLanes];
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    Out* row = output + i * b.size;
    std::memset(row, 0, b.size * sizeof(Out));
    for (int64_t first = 0; first < b.size; first += kMostPairs - kLanes) {
      const int64_t last = std::min(first + kMostPairs - kLanes, b.size);
      for (int64_t j = first; j < last; j += kLanes) {
        for (uint32_t near = b.near<V>(a[i], j); near != 0; near &= near - 1) {
          const int64_t column = j + __builtin_ctz(near);
          waiting[count++] = {&a[i], &b[column], row + column};
        }
      }
      const bool is_last = i + 1 == end && last == b.size;
      int64_t done = 0;
      for (; count - done >= (is_last ? 1 : kLanes); done += std::min(kLanes, count - done)) {
        score_pairs<V>(waiting + done, std::min(kLanes, count - done), over_first);
      }
      count -= done;
      std::copy_n(waiting + done, count, waiting);
    }
  }
}

template <typename Out>
void overlap_cpu(const RawBoxes& boxes1, const RawBoxes& boxes2, int64_t image, bool over_first,
                 AngleConvention convention, Out* output) {
  const RotatedColumns a(boxes1, image, convention), b(boxes2, image, convention);
  parallel_for(a.size, grain_for(2.0 * static_cast<double>(b.size) + 2), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE { overlap_rows<decltype(isa)>(a, b, over_first, begin, end, output); });
  });
}

template <typename Out>
void overlap_aligned_cpu(const RawBoxes& boxes1, const RawBoxes& boxes2, int64_t image, bool over_first,
                         AngleConvention convention, Out* output) {
  const RotatedColumns a(boxes1, image, convention), b(boxes2, image, convention);
  parallel_for(a.size, grain_for(15), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE {
      using V = PairVec<decltype(isa)>;
      constexpr int64_t kLanes = sizeof(V) / sizeof(double);
      for (int64_t i = begin; i < end; i += kLanes) {
        const int64_t count = std::min(kLanes, end - i);
        WaitingPair<Out> pairs[kLanes];
        for (int64_t k = 0; k < count; ++k) pairs[k] = {&a[i + k], &b[i + k], output + i + k};
        score_pairs<V>(pairs, count, over_first);
      }
    });
  });
}
}  // namespace

Tensor box_iou_rotated(const Tensor& boxes1, const Tensor& boxes2, bool over_first, bool aligned, bool clockwise,
                       bool degrees) {
  const char* op = "box_iou_rotated";
  check_real(op, "boxes1", boxes1);
  check_real(op, "boxes2", boxes2);
  const bool batched = boxes1.dim() == 3;
  if (batched) {
    check_shape(op, "boxes1", boxes1, {kAny, kAny, 5});
    check_shape(op, "boxes2", boxes2, {boxes1.size(0), aligned ? boxes1.size(1) : kAny, 5});
  } else {
    check_shape(op, "boxes1", boxes1, {kAny, 5});
    check_shape(op, "boxes2", boxes2, {aligned ? boxes1.size(0) : kAny, 5});
  }
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
  const int64_t images = batched ? boxes1.size(0) : 1;
  const int64_t n = boxes1.size(boxes1.dim() - 2), m = boxes2.size(boxes2.dim() - 2), columns = aligned ? 1 : m;
  const ScalarType dtype = is_double(boxes1) || is_double(boxes2) ? ScalarType::Double : ScalarType::Float;
  Tensor output =
      batched   ? aligned ? new_tensor<2>(boxes1, {images, n}, dtype) : new_tensor<3>(boxes1, {images, n, m}, dtype)
      : aligned ? new_tensor<1>(boxes1, {n}, dtype)
                : new_tensor<2>(boxes1, {n, m}, dtype);
  if (n == 0 || m == 0) return output;
  const BoxView a(boxes1), b(boxes2);
  const AngleConvention convention{clockwise, degrees};
  const auto run = [&](auto type) {
    using Out = typename decltype(type)::type;
    Out* scores = mutable_data<Out>(output);
    dispatch_device(
        boxes1,
        [&] {
          for (int64_t image = 0; image < images; ++image, scores += n * columns) {
            (aligned ? overlap_aligned_cpu<Out> : overlap_cpu<Out>)(a, b, image, over_first, convention, scores);
          }
        },
        [&](void* stream) {
          (aligned ? box_iou_rotated_aligned_cuda<Out>
                   : box_iou_rotated_cuda<Out>)({a, b, scores, images, over_first, convention}, stream);
        });
  };
  dtype == ScalarType::Double ? run(Type<double>{}) : run(Type<float>{});
  return output;
}
DETOPS_OP(box_iou_rotated,
          "(Tensor boxes1, Tensor boxes2, bool over_first, bool aligned, bool clockwise, bool degrees) -> Tensor")
}  // namespace detops
