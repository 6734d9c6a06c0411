#include "soft_nms.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <tuple>

#include "soft_nms_cpu.h"

namespace detops {
namespace {
RawNumbers numbers(const Tensor& t) {
  return {data<char>(t), t.scalar_type(), t.dim() == 2 ? t.stride(0) : 0, t.stride(t.dim() - 1)};
}

template <typename A>
std::vector<A> scores_of(const RawNumbers& scores, int64_t image, int64_t size) {
  std::vector<A> result(size);
  scores.visit([&](const auto* from) {
    from += image * scores.image_stride;
    for (int64_t i = 0; i < size; ++i) result[i] = static_cast<A>(from[i * scores.stride]);
  });
  return result;
}

// Writes image's detections, then padding; returns their number.
template <typename A>
int64_t soft_nms_cpu(const BoxView& boxes, const std::vector<A>& scores, const SoftNmsRule<A>& rule, int64_t limit,
                     A* dets, int64_t* keep) {
  int64_t count = 0;
  if (boxes.size > 0) {
    SoftNms<A> left(BoxColumns<A>(boxes), scores, rule);
    simd([&](auto isa) DETOPS_INLINE {
      using Isa = decltype(isa);
      left.template summarize<Isa>();
      SoftDetection<A> taken;
      for (; count < limit && left.template take<Isa>(taken); ++count) {
        A* det = dets + 5 * count;
        det[0] = taken.box.x1, det[1] = taken.box.y1, det[2] = taken.box.x2, det[3] = taken.box.y2;
        det[4] = taken.score;
        keep[count] = taken.index;
      }
    });
  }
  std::fill(dets + 5 * count, dets + 5 * limit, A(0));
  std::fill(keep + count, keep + limit, int64_t{-1});
  return count;
}

template <typename A>
void soft_nms_images(const Tensor& boxes, const RawNumbers& scores, int64_t images, const SoftNmsRule<A>& rule,
                     const SoftNmsOutputs<A>& to) {
  std::atomic<bool> out_of_memory{false};  // nothing may be thrown from another thread
  const int64_t size = boxes.size(boxes.dim() - 2);
  parallel_for(images, grain_for(300.0 * static_cast<double>(size) + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        to.count[i] = soft_nms_cpu(BoxView(boxes, i), scores_of<A>(scores, i, size), rule, to.limit,
                                   to.dets + 5 * i * to.limit, to.keep + i * to.limit);
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

void check(const char* op, const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
           double min_score, int64_t method) {
  check_real(op, "boxes", boxes);
  check_real(op, "scores", scores);
  if (boxes.dim() == 3) {
    check_shape(op, "boxes", boxes, {kAny, kAny, 4});
    check_shape(op, "scores", scores, {boxes.size(0), boxes.size(1)});
  } else {
    check_shape(op, "boxes", boxes, {kAny, 4});
    check_shape(op, "scores", scores, {boxes.size(0)});
  }
  check_same_device(op, "boxes", boxes, "scores", scores);
  if (std::isnan(iou_threshold)) fail(op, "expected iou_threshold to be a number, got nan");
  if (!(sigma > 0)) fail(op, "expected sigma above 0, got ", sigma);
  if (std::isnan(min_score)) fail(op, "expected min_score to be a number, got nan");
  if (method < 0 || method > 2) fail(op, "expected method from 0 to 2, got ", method);
  if (boxes.size(boxes.dim() - 2) > std::numeric_limits<uint32_t>::max()) {
    fail(op, "expected boxes to be fewer than 2^32, got ", boxes.size(boxes.dim() - 2));
  }
}

using Padded = std::tuple<Tensor, Tensor, Tensor>;

Padded soft_nms_host(const char* op, const Tensor& boxes, const Tensor& scores, int64_t limit, double iou_threshold,
                     double sigma, double min_score, int64_t method) {
  const bool batched = boxes.dim() == 3;
  const int64_t images = batched ? boxes.size(0) : 1, size = boxes.size(boxes.dim() - 2);
  const bool wide = is_double(boxes) || is_double(scores);
  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  Tensor dets = batched ? new_tensor<3>(boxes, {images, limit, 5}, dtype) : new_tensor<2>(boxes, {limit, 5}, dtype);
  Tensor keep = batched ? new_tensor<2>(boxes, {images, limit}, ScalarType::Long)
                        : new_tensor<1>(boxes, {limit}, ScalarType::Long);
  Tensor count =
      batched ? new_tensor<1>(boxes, {images}, ScalarType::Long) : new_tensor<0>(boxes, {}, ScalarType::Long);
  const auto run = [&](auto type) {
    using A = typename decltype(type)::type;
    const SoftNmsRule<A> rule{static_cast<Decay>(method), static_cast<A>(iou_threshold), static_cast<A>(sigma),
                              static_cast<A>(min_score)};
    const SoftNmsOutputs<A> to{mutable_data<A>(dets), mutable_data<int64_t>(keep), mutable_data<int64_t>(count), limit};
    dispatch_device(
        boxes, [&] { soft_nms_images(boxes, numbers(scores), images, rule, to); },
        [&](void* stream) {
          Tensor columns = new_tensor<3>(boxes, {images, 5, size}, dtype);
          soft_nms_cuda<A>(op, {BoxView(boxes), numbers(scores), rule, to, mutable_data<A>(columns), images}, stream);
        });
  };
  wide ? run(Type<double>{}) : run(Type<float>{});
  return {dets, keep, count};
}
}  // namespace

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
                                    double min_score, int64_t method) {
  const char* op = "soft_nms";
  check_shape(op, "boxes", boxes, {kAny, 4});
  check(op, boxes, scores, iou_threshold, sigma, min_score, method);
  const auto [dets, keep, count] =
      soft_nms_host(op, boxes, scores, boxes.size(0), iou_threshold, sigma, min_score, method);
  int64_t kept = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(count.get(), &kept));  // on CUDA the one wait
  Tensor kept_dets = dets, kept_keep = keep;
  return {torch::stable::narrow(kept_dets, 0, 0, kept), torch::stable::narrow(kept_keep, 0, 0, kept)};
}
DETOPS_OP(soft_nms,
          "(Tensor boxes, Tensor scores, float iou_threshold, float sigma, float min_score, int method) -> "
          "(Tensor, Tensor)")

Padded soft_nms_padded(const Tensor& boxes, const Tensor& scores, int64_t max_output, double iou_threshold,
                       double sigma, double min_score, int64_t method) {
  const char* op = "soft_nms_padded";
  check(op, boxes, scores, iou_threshold, sigma, min_score, method);
  if (max_output < 0) fail(op, "expected max_output to be 0 or more, got ", max_output);
  return soft_nms_host(op, boxes, scores, max_output, iou_threshold, sigma, min_score, method);
}
DETOPS_OP(soft_nms_padded,
          "(Tensor boxes, Tensor scores, SymInt max_output, float iou_threshold, float sigma, float min_score, "
          "int method) -> (Tensor, Tensor, Tensor)")
}  // namespace detops
