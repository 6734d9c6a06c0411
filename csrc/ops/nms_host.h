// The host functions of non-maximum suppression, for any kind of box. `with_rule(boxes, fn)` calls fn(rule), a rule as
// in nms.h, for boxes of `columns` numbers.
#pragma once
#include <atomic>
#include <cmath>
#include <optional>
#include <tuple>

#include "../core/torch_sort.h"
#include "nms_cpu.h"

namespace detops {
// What an operator is called with, and the names that its messages give to it.
struct NmsInputs {
  const char* op;
  const char* boxes_name;
  int64_t columns;
  const char* idxs_name;
};

inline void check_inputs(const NmsInputs& of, const Tensor& boxes, const Tensor& scores, const Tensor* idxs,
                         double iou_threshold) {
  const auto& [op, boxes_name, columns, idxs_name] = of;
  check_real(op, boxes_name, boxes);
  check_real(op, "scores", scores);
  if (idxs) check_real(op, idxs_name, *idxs);
  if (boxes.dim() == 3) {
    check_shape(op, boxes_name, boxes, {kAny, kAny, columns});
    check_shape(op, "scores", scores, {boxes.size(0), boxes.size(1)});
    if (idxs) check_shape(op, idxs_name, *idxs, {boxes.size(0), boxes.size(1)});
  } else {
    check_shape(op, boxes_name, boxes, {kAny, columns});
    check_shape(op, "scores", scores, {boxes.size(0)});
    if (idxs) check_shape(op, idxs_name, *idxs, {boxes.size(0)});
  }
  check_same_device(op, boxes_name, boxes, "scores", scores);
  if (idxs) check_same_device(op, boxes_name, boxes, idxs_name, *idxs);
  if (std::isnan(iou_threshold)) fail(op, "expected iou_threshold to be a number, got nan");
  if (boxes.size(boxes.dim() - 2) > std::numeric_limits<uint32_t>::max()) {
    fail(op, "expected ", boxes_name, " to be fewer than 2^32, got ", boxes.size(boxes.dim() - 2));
  }
}

inline RawNumbers numbers(const Tensor& t, int64_t image = 0) {
  const int64_t image_stride = t.dim() == 2 ? t.stride(0) : 0;
  const char* first = data<char>(t) + image * image_stride * element_size(t.scalar_type());
  return {first, t.scalar_type(), image_stride, t.stride(t.dim() - 1)};
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

inline Tensor sort_keys(const Tensor& t, const Tensor* order, int64_t images, int64_t size, bool descending, bool wide,
                        void* stream) {
  Tensor keys = new_tensor<2>(t, {images, size}, wide ? ScalarType::Long : ScalarType::Int);
  const int64_t* places = order ? data<int64_t>(*order) : nullptr;
  nms_keys_cuda({numbers(t), images, size, places, descending, mutable_data<char>(keys), wide}, stream);
  return keys;
}

// Fills keep (images, limit), flattened, and count (images,). Does not wait for the device.
template <typename Rule>
void nms_on_cuda(const Rule& rule, const Tensor& boxes, const Tensor& scores, const Tensor* idxs,
                 std::optional<double> score_threshold, int64_t limit, Tensor& keep, Tensor& count, void* stream) {
  const int64_t images = boxes.dim() == 3 ? boxes.size(0) : 1;
  const int64_t size = limit > 0 && images > 0 ? boxes.size(boxes.dim() - 2) : 0;
  NmsArgs<Rule> args{rule,
                     BoxView(boxes),
                     numbers(scores),
                     score_threshold.has_value(),
                     score_threshold.value_or(0),
                     images,
                     size,
                     limit,
                     nullptr,
                     nullptr,
                     nullptr,
                     mutable_data<int64_t>(keep),
                     mutable_data<int64_t>(count)};
  std::optional<Sorted> by_score, by_class;
  if (size > 0) {
    const ScalarType dtype = scores.scalar_type();
    const bool wide = dtype == ScalarType::Double || dtype == ScalarType::Long;
    by_score = stable_sort(sort_keys(scores, nullptr, images, size, true, wide, stream));
    args.by_score = data<int64_t>(by_score->indices);
    if (idxs && !args.rule.drops_nothing()) {
      by_class = stable_sort(sort_keys(*idxs, &by_score->indices, images, size, false, true, stream));
      args.by_class = data<int64_t>(by_class->indices);
      args.classes = data<int64_t>(by_class->values);
    }
  }
  Tensor scratch = new_tensor<1>(boxes, {nms_scratch_bytes<Rule>(images, size)}, ScalarType::Byte);
  nms_cuda(args, mutable_data<char>(scratch), stream);
}

// ---- Every device --------------------------------------------------------------------------------------------------

template <typename WithRule>
Tensor nms_host(const NmsInputs& of, const Tensor& boxes, const Tensor& scores, const Tensor* idxs,
                double iou_threshold, const WithRule& with_rule) {
  check_shape(of.op, of.boxes_name, boxes, {kAny, of.columns});
  check_inputs(of, boxes, scores, idxs, iou_threshold);
  const int64_t size = boxes.size(0);
  std::optional<Tensor> keep;
  with_rule(boxes, [&](const auto& rule) {
    dispatch_device(
        boxes,
        [&] {
          NmsImage image{BoxView(boxes), numbers(scores), std::nullopt, std::nullopt};
          if (idxs) image.classes = numbers(*idxs);
          const Indices kept = nms_cpu(image, rule, size);
          keep = new_tensor<1>(boxes, {kept.size}, ScalarType::Long);
          std::copy_n(kept.data.get(), kept.size, mutable_data<int64_t>(*keep));
        },
        [&](void* stream) {
          Tensor all = new_tensor<1>(boxes, {size}, ScalarType::Long);
          Tensor count = new_tensor<0>(boxes, {}, ScalarType::Long);
          nms_on_cuda(rule, boxes, scores, idxs, std::nullopt, size, all, count, stream);
          int64_t kept = 0;
          TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(count.get(), &kept));  // the one wait
          keep = torch::stable::narrow(all, 0, 0, kept);
        });
  });
  return *keep;
}

// Of each image.
template <typename Rule>
void nms_padded_cpu(const Rule& rule, const Tensor& boxes, const Tensor& scores, const Tensor* idxs,
                    std::optional<double> score_threshold, int64_t limit, Tensor& keep, Tensor& count) {
  const int64_t images = boxes.dim() == 3 ? boxes.size(0) : 1;
  int64_t* keep_data = mutable_data<int64_t>(keep);
  int64_t* count_data = mutable_data<int64_t>(count);
  std::atomic<bool> out_of_memory{false};  // nothing may be thrown from another thread
  const double per_image = 60.0 * boxes.size(boxes.dim() - 2) + 1;
  parallel_for(images, grain_for(per_image), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      try {
        NmsImage image{BoxView(boxes, i), numbers(scores, i), std::nullopt, score_threshold};
        if (idxs) image.classes = numbers(*idxs, i);
        const Indices kept = nms_cpu(image, rule, limit);
        int64_t* row = keep_data + i * limit;
        std::fill(std::copy_n(kept.data.get(), kept.size, row), row + limit, int64_t{-1});
        count_data[i] = kept.size;
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

template <typename WithRule>
std::tuple<Tensor, Tensor> nms_padded_host(const NmsInputs& of, const Tensor& boxes, const Tensor& scores,
                                           const Tensor* idxs, double iou_threshold, int64_t max_output,
                                           std::optional<double> score_threshold, const WithRule& with_rule) {
  check_inputs(of, boxes, scores, idxs, iou_threshold);
  if (max_output < 0) fail(of.op, "expected max_output to be 0 or more, got ", max_output);
  if (score_threshold && std::isnan(*score_threshold)) {
    fail(of.op, "expected score_threshold to be a number, got nan");
  }
  const bool batched = boxes.dim() == 3;
  const int64_t images = batched ? boxes.size(0) : 1;
  Tensor keep = batched ? new_tensor<2>(boxes, {images, max_output}, ScalarType::Long)
                        : new_tensor<1>(boxes, {max_output}, ScalarType::Long);
  Tensor count =
      batched ? new_tensor<1>(boxes, {images}, ScalarType::Long) : new_tensor<0>(boxes, {}, ScalarType::Long);
  with_rule(boxes, [&](const auto& rule) {
    dispatch_device(
        boxes, [&] { nms_padded_cpu(rule, boxes, scores, idxs, score_threshold, max_output, keep, count); },
        [&](void* stream) {
          nms_on_cuda(rule, boxes, scores, idxs, score_threshold, max_output, keep, count, stream);
        });
  });
  return {keep, count};
}
}  // namespace detops
