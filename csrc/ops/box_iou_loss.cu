#include "box_iou_loss.h"
#include "loss_kernels.h"

// Bound by the bytes of the boxes: a thread takes a row, 16 bytes of each side at once.
namespace detops {
namespace {
template <typename A>
struct KernelArgs {
  BoxLossArgs of;
  A* losses;
  LossSum<A> sum;
};

template <Overlap kKind, typename A>
struct Pair {
  Box<A> box1, box2;
  A aspect1{}, aspect2{};

  DETOPS_D Pair(const BoxLossArgs& a, int64_t i)
      : box1(read(a.boxes1, a.in_packs, i)), box2(read(a.boxes2, a.in_packs, i)) {
    if constexpr (kKind == Overlap::kComplete) aspect1 = aspect(box1), aspect2 = aspect(box2);
  }

  DETOPS_D static Box<A> read(const RawBoxes& boxes, bool in_packs, int64_t i) {
    if constexpr (std::is_same_v<A, float>) {
      if (in_packs) {
        const auto row = reinterpret_cast<const Pack<float>*>(boxes.data)[i];
        return {row.values[0], row.values[1], row.values[2], row.values[3]};
      }
    }
    return boxes.load<A>(0, i);
  }
};

template <Overlap kKind, typename A>
__global__ void __launch_bounds__(kLossThreads) box_iou_loss_kernel(KernelArgs<A> a) {
  double total = 0;
  DETOPS_GRID_STRIDE(i, a.of.boxes1.size) {
    const Pair<kKind, A> pair(a.of, i);
    const A loss =
        box_loss<kKind>(pair.box1, pair.box2, pair.aspect1, pair.aspect2, a.of.eps.template denominators<A>());
    if (a.losses != nullptr) a.losses[i] = loss;
    total += loss;
  }
  if (a.losses == nullptr) finish_block<A>(total, a.sum);
}

template <typename A>
struct BackwardArgs {
  BoxLossArgs of;
  RowGradients<A> to;
};

template <Overlap kKind, typename A>
__global__ void __launch_bounds__(kLossThreads) box_iou_loss_backward_kernel(BackwardArgs<A> a) {
  DETOPS_GRID_STRIDE(i, a.of.boxes1.size) {
    const Pair<kKind, A> pair(a.of, i);
    const Box<A> gradient =
        box_loss_gradient<kKind>(pair.box1, pair.box2, pair.aspect1, pair.aspect2,
                                 a.to.factor * a.to.grad[i * a.to.grad_stride], a.of.eps.template denominators<A>());
    const A row[4] = {gradient.x1, gradient.y1, gradient.x2, gradient.y2};
    store_packs(reinterpret_cast<A*>(a.to.output + i), row);
  }
}
}  // namespace

template <Overlap kKind, typename A>
void box_iou_loss_cuda(const char* op, const BoxLossArgs& args, A* losses, const LossSum<A>& sum, void* stream) {
  const int64_t rows = args.boxes1.size, blocks = loss_blocks(rows, kRowsOfBlock);
  launch(op, box_iou_loss_kernel<kKind, A>,
         losses != nullptr ? grid_for(rows, kLossThreads) : Grid{blocks, kLossThreads}, stream, {args, losses, sum});
  if (losses == nullptr) add_blocks<A>(op, sum, blocks, stream);
}

template <Overlap kKind, typename A>
void box_iou_loss_backward_cuda(const char* op, const BoxLossArgs& args, const RowGradients<A>& of, void* stream) {
  launch(op, box_iou_loss_backward_kernel<kKind, A>, grid_for(args.boxes1.size, kLossThreads), stream, {args, of});
}

#define INSTANTIATE(KIND, A)                                                                            \
  template void box_iou_loss_cuda<KIND>(const char*, const BoxLossArgs&, A*, const LossSum<A>&, void*); \
  template void box_iou_loss_backward_cuda<KIND>(const char*, const BoxLossArgs&, const RowGradients<A>&, void*);
INSTANTIATE(Overlap::kGeneralized, float)
INSTANTIATE(Overlap::kGeneralized, double)
INSTANTIATE(Overlap::kDistance, float)
INSTANTIATE(Overlap::kDistance, double)
INSTANTIATE(Overlap::kComplete, float)
INSTANTIATE(Overlap::kComplete, double)
}  // namespace detops
