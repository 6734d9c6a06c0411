#include "nms.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "../core/radix_sort.h"
#include "box_columns.h"
#include "nms_grid.h"
#include "nms_list.h"

namespace detops {
namespace {
// Vectors of kept boxes from which on a grid is faster, as measured; it gains less at low thresholds.
constexpr int64_t longest_list(double iou_threshold) { return iou_threshold < 0.45 ? 200 : 90; }

template <typename T>
std::unique_ptr<T[]> uninitialised(int64_t n) {
  return std::unique_ptr<T[]>(new T[n]);
}

// A row of numbers inside a tensor (N,) or (B, N).
struct RowView {
  const char* data;
  ScalarType dtype;
  int64_t stride;

  RowView(const Tensor& t, int64_t image)
      : data(detops::data<char>(t)), dtype(t.scalar_type()), stride(t.stride(t.dim() - 1)) {
    if (image > 0) data += image * t.stride(0) * element_size(dtype);
  }
};

struct NmsImage {
  BoxView boxes;
  RowView scores;
  std::optional<RowView> classes;
  std::optional<double> score_threshold;
};

struct Indices {
  std::unique_ptr<uint32_t[]> data;
  int64_t size;
};

// Half and bfloat16 as float, integers as int64: what ascending_key() takes.
template <typename T>
using sortable_t = std::conditional_t<std::is_integral_v<T>, int64_t, acc_t<T>>;

// The boxes above the score threshold, highest score first.
Indices by_score(const NmsImage& image) {
  const int64_t n = image.boxes.size;
  Indices order{uninitialised<uint32_t>(n), 0};
  dispatch_type(image.scores.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<S>()));
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    const S* scores = reinterpret_cast<const S*>(image.scores.data);
    const double least = image.score_threshold.value_or(0);
    int64_t size = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto score = static_cast<sortable_t<S>>(scores[i * image.scores.stride]);
      items[size] = {static_cast<Key>(~ascending_key(score)), static_cast<uint32_t>(i)};
      size += !image.score_threshold || static_cast<double>(score) > least;
    }
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, size);
    for (int64_t i = 0; i < size; ++i) order.data[i] = sorted[i].index;
    order.size = size;
  });
  return order;
}

// Positions in the order of score, class by class.
struct Segments {
  std::unique_ptr<uint32_t[]> positions;
  std::vector<int64_t> begins;  // and the end of the last

  template <typename Key>
  Segments(const Key* keys, int64_t n) : positions(uninitialised<uint32_t>(n)) {
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    for (int64_t i = 0; i < n; ++i) items[i] = {keys[i], static_cast<uint32_t>(i)};
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, n);
    for (int64_t i = 0; i < n; ++i) {
      if (i == 0 || sorted[i].key != sorted[i - 1].key) begins.push_back(i);
      positions[i] = sorted[i].index;
    }
    begins.push_back(n);
  }

  // The first segment that begins at a position or after it.
  std::vector<int64_t>::const_iterator at(int64_t position) const {
    return std::lower_bound(begins.begin(), begins.end(), position);
  }
};

std::optional<Segments> by_class(const RowView& classes, const Indices& order) {
  std::optional<Segments> segments;
  dispatch_type(classes.dtype, [&](auto type) {
    using I = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<I>()));
    const auto keys = uninitialised<Key>(order.size);
    Key least = ~Key{0}, most = 0;
    for (int64_t i = 0; i < order.size; ++i) {
      const I of_box = reinterpret_cast<const I*>(classes.data)[order.data[i] * classes.stride];
      keys[i] = ascending_key(static_cast<sortable_t<I>>(of_box));
      least = std::min(least, keys[i]);
      most = std::max(most, keys[i]);
    }
    if (sizeof(Key) > 4 && most - least <= ~uint32_t{0}) {
      const auto small = uninitialised<uint32_t>(order.size);
      for (int64_t i = 0; i < order.size; ++i) small[i] = static_cast<uint32_t>(keys[i] - least);
      segments.emplace(small.get(), order.size);
    } else {
      segments.emplace(keys.get(), order.size);
    }
  });
  return segments;
}

// Memory for the boxes of all segments and for those kept of each, with room between pieces, which share no vector.
template <typename A>
class Arena {
 public:
  Arena(int64_t n, int64_t pieces)
      : pitch_(n + pieces * KeptBoxes<A>::kStep), storage_(uninitialised<A>((4 + KeptBoxes<A>::kColumns) * pitch_)) {}

  // Boxes [begin, end) of an image, gathered as boxes row(begin), row(begin + 1), ...
  template <typename Row>
  SortedBoxes<A> boxes(const BoxView& from, int64_t begin, int64_t end, const Row& row) const {
    A* to = storage_.get() + begin;
    dispatch_type(from.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      for (int64_t i = begin; i < end; ++i, ++to) {
        const T* box = reinterpret_cast<const T*>(from.data) + row(i) * from.row_stride;
        for (int column = 0; column < 4; ++column) {
          to[column * pitch_] = static_cast<A>(box[column * from.column_stride]);
        }
      }
    });
    const A* x1 = storage_.get() + begin;
    return {x1, x1 + pitch_, x1 + 2 * pitch_, x1 + 3 * pitch_, end - begin};
  }

  // An empty list for the boxes kept of [begin, ...) in a piece.
  KeptBoxes<A> list(int64_t piece, int64_t begin) const {
    return KeptBoxes<A>(storage_.get() + 4 * pitch_ + piece * KeptBoxes<A>::kStep + begin, pitch_);
  }

 private:
  int64_t pitch_;
  std::unique_ptr<A[]> storage_;
};

// Positions of the first `limit` boxes kept; returns their number.
template <typename A>
int64_t suppress(const SortedBoxes<A>& boxes, const NmsRule<A>& rule, int64_t limit, KeptBoxes<A> list,
                 uint32_t* keep) {
  if (rule.drops_nothing()) {
    const int64_t kept = std::min(limit, boxes.size);
    std::iota(keep, keep + kept, 0u);
    return kept;
  }
  NmsProgress at;
  simd([&](auto isa) DETOPS_INLINE {
    using Isa = decltype(isa);
    const bool grid = rule.iou_threshold >= GridAxis::kLeastThreshold;
    const int64_t longest = grid ? longest_list(rule.iou_threshold) * lanes<Isa, A> : boxes.size;
    suppress_by_list<Isa>(boxes, rule, limit, longest, list, at, keep);
    if (!grid || at.decided == boxes.size || at.kept == limit) return;
    if (suppress_by_grid<Isa>(boxes, rule, limit, list, at, keep)) return;
    suppress_by_list<Isa>(boxes, rule, limit, boxes.size, list, at, keep);
  });
  return at.kept;
}

// The first `limit` boxes of one image that are kept, highest score first.
template <typename A>
Indices nms_cpu(const NmsImage& image, double iou_threshold, int64_t limit) {
  const NmsRule<A> rule(iou_threshold);
  const Indices order = by_score(image);
  Indices keep{uninitialised<uint32_t>(order.size), 0};
  const std::optional<Segments> segments = image.classes ? by_class(*image.classes, order) : std::nullopt;
  if (!segments) {
    const Arena<A> arena(order.size, 1);
    const auto boxes = arena.boxes(image.boxes, 0, order.size, [&](int64_t i) { return order.data[i]; });
    keep.size = suppress(boxes, rule, limit, arena.list(0, 0), keep.data.get());
    for (int64_t i = 0; i < keep.size; ++i) keep.data[i] = order.data[keep.data[i]];
    return keep;
  }
  const int64_t pieces = std::clamp<int64_t>(order.size / grain_for(60), 1, num_threads());
  const Arena<A> arena(order.size, pieces);
  const auto is_kept = std::make_unique<bool[]>(order.size);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const auto from = segments->at(order.size * piece / pieces);
      const auto to = segments->at(order.size * (piece + 1) / pieces);
      for (auto segment = from; segment != to; ++segment) {
        const int64_t begin = segment[0], end = segment[1];
        const uint32_t* positions = segments->positions.get();
        const auto boxes = arena.boxes(image.boxes, begin, end, [&](int64_t i) { return order.data[positions[i]]; });
        uint32_t* kept_here = keep.data.get() + begin;
        const int64_t kept = suppress(boxes, rule, limit, arena.list(piece, begin), kept_here);
        for (int64_t i = 0; i < kept; ++i) is_kept[positions[begin + kept_here[i]]] = true;
      }
    }
  });
  for (int64_t i = 0; i < order.size && keep.size < limit; ++i) {
    keep.data[keep.size] = order.data[i];
    keep.size += is_kept[i];
  }
  return keep;
}

Indices nms_cpu(const NmsImage& image, double iou_threshold, int64_t limit) {
  // Integers are exact in double where float would round large coordinates.
  return image.boxes.dtype == ScalarType::Double || is_integral(image.boxes.dtype)
             ? nms_cpu<double>(image, iou_threshold, limit)
             : nms_cpu<float>(image, iou_threshold, limit);
}

void check_inputs(const char* op, const Tensor& boxes, const Tensor& scores, const Tensor* idxs, double iou_threshold) {
  check_real(op, "boxes", boxes);
  check_real(op, "scores", scores);
  if (idxs) check_real(op, "idxs", *idxs);
  if (boxes.dim() == 3) {
    check_shape(op, "boxes", boxes, {kAny, kAny, 4});
    check_shape(op, "scores", scores, {boxes.size(0), boxes.size(1)});
    if (idxs) check_shape(op, "idxs", *idxs, {boxes.size(0), boxes.size(1)});
  } else {
    check_shape(op, "boxes", boxes, {kAny, 4});
    check_shape(op, "scores", scores, {boxes.size(0)});
    if (idxs) check_shape(op, "idxs", *idxs, {boxes.size(0)});
  }
  check_same_device(op, "boxes", boxes, "scores", scores);
  if (idxs) check_same_device(op, "boxes", boxes, "idxs", *idxs);
  if (std::isnan(iou_threshold)) fail(op, "expected iou_threshold to be a number, got nan");
  if (boxes.size(boxes.dim() - 2) > std::numeric_limits<uint32_t>::max()) {
    fail(op, "expected boxes to be fewer than 2^32, got ", boxes.size(boxes.dim() - 2));
  }
}

Tensor nms_host(const char* op, const Tensor& boxes, const Tensor& scores, const Tensor* idxs, double iou_threshold) {
  check_shape(op, "boxes", boxes, {kAny, 4});
  check_inputs(op, boxes, scores, idxs, iou_threshold);
  NmsImage image{BoxView(boxes), RowView(scores, 0), std::nullopt, std::nullopt};
  if (idxs) image.classes.emplace(*idxs, 0);
  const Indices kept = nms_cpu(image, iou_threshold, boxes.size(0));
  Tensor keep = new_tensor<1>(boxes, {kept.size}, ScalarType::Long);
  std::copy_n(kept.data.get(), kept.size, mutable_data<int64_t>(keep));
  return keep;
}
}  // namespace

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  return nms_host("nms", boxes, scores, nullptr, iou_threshold);
}
DETOPS_OP(nms, "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  return nms_host("batched_nms", boxes, scores, &idxs, iou_threshold);
}
DETOPS_OP(batched_nms, "(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor")

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, double iou_threshold,
                                      int64_t max_output, const std::optional<Tensor>& idxs,
                                      std::optional<double> score_threshold) {
  const char* op = "nms_padded";
  check_inputs(op, boxes, scores, idxs ? &*idxs : nullptr, iou_threshold);
  if (max_output < 0) fail(op, "expected max_output to be 0 or more, got ", max_output);
  if (score_threshold && std::isnan(*score_threshold)) {
    fail(op, "expected score_threshold to be a number, got nan");
  }
  const bool batched = boxes.dim() == 3;
  const int64_t images = batched ? boxes.size(0) : 1;
  Tensor keep = batched ? new_tensor<2>(boxes, {images, max_output}, ScalarType::Long)
                        : new_tensor<1>(boxes, {max_output}, ScalarType::Long);
  Tensor count =
      batched ? new_tensor<1>(boxes, {images}, ScalarType::Long) : new_tensor<0>(boxes, {}, ScalarType::Long);
  int64_t* keep_data = mutable_data<int64_t>(keep);
  int64_t* count_data = mutable_data<int64_t>(count);
  std::atomic<bool> out_of_memory{false};  // nothing may be thrown from another thread
  const double per_image = 60.0 * boxes.size(boxes.dim() - 2) + 1;
  parallel_for(images, grain_for(per_image), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      try {
        NmsImage image{BoxView(boxes, i), RowView(scores, i), std::nullopt, score_threshold};
        if (idxs) image.classes.emplace(*idxs, i);
        const Indices kept = nms_cpu(image, iou_threshold, max_output);
        int64_t* row = keep_data + i * max_output;
        std::fill(std::copy_n(kept.data.get(), kept.size, row), row + max_output, int64_t{-1});
        count_data[i] = kept.size;
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    }
  });
  if (out_of_memory) throw std::bad_alloc();
  return {keep, count};
}
DETOPS_OP(nms_padded,
          "(Tensor boxes, Tensor scores, float iou_threshold, SymInt max_output, Tensor? idxs=None, "
          "float? score_threshold=None) -> (Tensor, Tensor)")
}  // namespace detops
