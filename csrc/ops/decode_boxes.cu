#include "box_fours.h"
#include "decode_boxes.h"

// A thread has a row of four numbers, which it reads and writes as one where the tensors allow it: bound by bytes.
namespace detops {
namespace {
constexpr int kThreads = 256;

template <typename Out, typename Fn, bool kFours>
__global__ void __launch_bounds__(kThreads) map_rows_kernel(RowsArgs<Out, Fn> a) {
  using A = acc_t<Out>;
  DETOPS_GRID_STRIDE(i, a.images * a.rows) {
    const int64_t image = a.images > 1 ? i / a.rows : 0, row = i - image * a.rows;
    OfAxis<A> in_x[Fn::kInputs], in_y[Fn::kInputs], out_x[Fn::kOutputs], out_y[Fn::kOutputs];
#pragma unroll
    for (int k = 0; k < Fn::kInputs; ++k) {
      const Box<A> row_of_four = read_row<A, Out, kFours>(a.inputs[k], image, row);
      in_x[k] = {row_of_four.x1, row_of_four.x2};
      in_y[k] = {row_of_four.y1, row_of_four.y2};
    }
    a.x(in_x, out_x);
    a.y(in_y, out_y);
#pragma unroll
    for (int k = 0; k < Fn::kOutputs; ++k) {
      if (a.outputs[k] == nullptr) continue;
      reinterpret_cast<Four<Out>*>(a.outputs[k])[i] = {
          static_cast<Out>(out_x[k].first), static_cast<Out>(out_y[k].first), static_cast<Out>(out_x[k].second),
          static_cast<Out>(out_y[k].second)};
    }
  }
}
}  // namespace

template <typename Out, typename Fn>
void map_rows_cuda(const char* op, const RowsArgs<Out, Fn>& args, void* stream) {
  bool fours = true;
  for (const RawBoxes& boxes : args.inputs) {
    fours = fours && in_fours<Out>(boxes, torch::headeronly::CppTypeToScalarType<Out>::value);
  }
  launch(op, fours ? map_rows_kernel<Out, Fn, true> : map_rows_kernel<Out, Fn, false>,
         grid_for(args.images * args.rows, kThreads), stream, args);
}

#define INSTANTIATE(OUT, FN) \
  template void map_rows_cuda<OUT, FN<acc_t<OUT>>>(const char*, const RowsArgs<OUT, FN<acc_t<OUT>>>&, void*);
#define INSTANTIATE_FORWARD(OUT) INSTANTIATE(OUT, EncodeRows) INSTANTIATE(OUT, DecodeRows)
INSTANTIATE_FORWARD(float)
INSTANTIATE_FORWARD(double)
INSTANTIATE_FORWARD(Half)
INSTANTIATE_FORWARD(BFloat16)
#define INSTANTIATE_BACKWARD(OUT) INSTANTIATE(OUT, EncodeRowsBackward) INSTANTIATE(OUT, DecodeRowsBackward)
INSTANTIATE_BACKWARD(float)
INSTANTIATE_BACKWARD(double)
}  // namespace detops
