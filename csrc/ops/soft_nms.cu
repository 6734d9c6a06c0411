#include <algorithm>

#include "../core/launch.h"
#include "soft_nms.h"

// A block has an image. In each step all threads lower the scores of their boxes by the box chosen last and find the
// best one among them; the best of the block is the next choice. One barrier a step, and nothing leaves the device.
namespace detops {
namespace {
#if defined(DETOPS_EMULATE_CUDA)
constexpr int kMostThreads = 64;
#else
constexpr int kMostThreads = 1024;
#endif
constexpr int kBoxesOfThread = 2;  // at least, if there are threads enough

// Of boxes that are equally good, the one with the lowest index.
template <typename A>
struct Choice {
  A score = SoftNmsRule<A>::kGone;
  uint32_t index = ~0u;

  DETOPS_D void add(const Choice& other) {
    if (other.score > score || (other.score == score && other.index < index)) *this = other;
  }
};

template <typename A>
DETOPS_D Choice<A> best_of_warp(Choice<A> choice) {
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    choice.add({__shfl_xor_sync(kAllLanes, choice.score, apart), __shfl_xor_sync(kAllLanes, choice.index, apart)});
  }
  return choice;
}

template <typename A>
struct ImageColumns {
  A *x1, *y1, *x2, *y2, *scores;
  int64_t size;

  DETOPS_D Box<A> operator[](int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Every thread keeps to its own boxes until the first barrier of the steps.
template <typename A>
DETOPS_D ImageColumns<A> read_image(const SoftNmsArgs<A>& a, int64_t image) {
  const int64_t size = a.boxes.size;
  A* x1 = a.columns + image * 5 * size;
  const ImageColumns<A> columns{x1, x1 + size, x1 + 2 * size, x1 + 3 * size, x1 + 4 * size, size};
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    const Box<A> box = a.boxes.template load<A>(image, i);
    columns.x1[i] = box.x1, columns.y1[i] = box.y1, columns.x2[i] = box.x2, columns.y2[i] = box.y2;
    const A score = a.scores.visit(
        [&](const auto* from) { return static_cast<A>(from[image * a.scores.image_stride + i * a.scores.stride]); });
    columns.scores[i] = score == score ? score : SoftNmsRule<A>::kGone;
  }
  return columns;
}

template <typename A>
__global__ void __launch_bounds__(kMostThreads) soft_nms_kernel(SoftNmsArgs<A> a) {
  DETOPS_SHARED(best_of_warps, Choice<A>[2][kWarp]);
  const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t image = blockIdx.x, limit = a.to.limit;
  const ImageColumns<A> columns = read_image(a, image);
  A* dets = a.to.dets + image * limit * 5;
  int64_t* keep = a.to.keep + image * limit;
  const bool local = a.rule.is_local();
  Choice<A> own;
  for (int64_t i = thread; i < columns.size; i += blockDim.x) own.add({columns.scores[i], static_cast<uint32_t>(i)});
  int64_t kept = 0;
  for (; kept < limit; ++kept) {
    Choice<A>* of_warps = best_of_warps[kept % 2];  // the other half may still be read
    own = best_of_warp(own);
    if (lane_id() == 0) of_warps[warp_id()] = own;
    __syncthreads();
    const Choice<A> chosen = best_of_warp(lane_id() < warps ? of_warps[lane_id()] : Choice<A>{});
    if (chosen.score == SoftNmsRule<A>::kGone) break;
    const Box<A> box = columns[chosen.index];
    const A own_area = area(box);
    if (thread == 0) {
      A* det = dets + 5 * kept;
      det[0] = box.x1, det[1] = box.y1, det[2] = box.x2, det[3] = box.y2, det[4] = chosen.score;
      keep[kept] = chosen.index;
    }
    own = Choice<A>{};
    for (int64_t i = thread; i < columns.size; i += blockDim.x) {
      A score = columns.scores[i];
      if (score == SoftNmsRule<A>::kGone) continue;
      if (i == chosen.index) {
        score = SoftNmsRule<A>::kGone;
      } else {
        const Box<A> other = columns[i];
        const bool lowered = !local || intersection(box, other) > 0;
        score =
            lowered ? a.rule.remaining(score, iou_or_nan(box, other, own_area, area(other))) : a.rule.admitted(score);
      }
      columns.scores[i] = score;
      own.add({score, static_cast<uint32_t>(i)});
    }
  }
  for (int64_t i = 5 * kept + thread; i < 5 * limit; i += blockDim.x) dets[i] = A(0);
  for (int64_t i = kept + thread; i < limit; i += blockDim.x) keep[i] = -1;
  if (thread == 0) a.to.count[image] = kept;
}
}  // namespace

template <typename A>
void soft_nms_cuda(const char* op, const SoftNmsArgs<A>& args, void* stream) {
  int threads = kWarp;
  while (threads < kMostThreads && threads * kBoxesOfThread < args.boxes.size) threads *= 2;
  launch(op, soft_nms_kernel<A>, {args.images, dim3(static_cast<unsigned>(threads))}, stream, args);
}

template void soft_nms_cuda<float>(const char*, const SoftNmsArgs<float>&, void*);
template void soft_nms_cuda<double>(const char*, const SoftNmsArgs<double>&, void*);
}  // namespace detops
