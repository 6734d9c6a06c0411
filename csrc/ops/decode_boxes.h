// Boxes as offsets from anchors, and back: the parametrisation of R-CNN (arXiv:1311.2524, appendix C). The centre moves
// by a share of the anchor's size, and the size grows by a factor of which the logarithm is kept.
#pragma once
#include "../math/box.h"
#include "../math/exponential.h"
#include "raw_boxes.h"

namespace detops {
// A box along one axis.
template <typename V>
struct Span {
  V low, high;

  DETOPS_HD V size() const { return high - low; }
  DETOPS_HD V centre() const { return low + constant<V>(0.5) * size(); }
};

// The same, relative to an anchor.
template <typename V>
struct Offset {
  V shift, growth;
};

// Along one axis; A is float or double, V that or a SIMD vector of it.
template <typename A>
struct AxisEncoder {
  A shift_weight, growth_weight;

  template <typename V>
  DETOPS_HD Offset<V> encode(const Span<V>& box, const Span<V>& anchor) const {
    const V size = anchor.size();
    return {constant<V>(shift_weight) * (box.centre() - anchor.centre()) / size,
            constant<V>(growth_weight) * logarithm(box.size() / size)};
  }

  template <typename V>
  DETOPS_HD void backward(const Span<V>& box, const Span<V>& anchor, const Offset<V>& grad, Span<V>& d_box,
                          Span<V>& d_anchor) const {
    const V size = anchor.size(), half = constant<V>(0.5);
    const V d_centre = constant<V>(shift_weight) * grad.shift / size, d_log = constant<V>(growth_weight) * grad.growth;
    const V d_size = half * d_centre + d_log / box.size();
    const V lost = half * d_centre + (d_centre * (box.centre() - anchor.centre()) + d_log) / size;
    d_box = {d_centre - d_size, d_size};
    d_anchor = {lost - d_centre, V{} - lost};
  }
};

template <typename A>
struct AxisDecoder {
  A shift_scale, growth_scale;  // one over the weights
  A most_growth;                // before the exponential
  A least, most;                // the image's edges; infinite if boxes are not clipped

  template <typename V>
  DETOPS_HD Span<V> decode(const Offset<V>& offset, const Span<V>& anchor) const {
    const Span<V> box = unclipped(offset, anchor, factor(offset));
    const V low = constant<V>(least), high = constant<V>(most);
    return {min(max(box.low, low), high), min(max(box.high, low), high)};
  }

  // A coordinate or growth beyond its limit passes no gradient.
  template <typename V>
  DETOPS_HD void backward(const Offset<V>& offset, const Span<V>& anchor, const Span<V>& grad, Offset<V>& d_offset,
                          Span<V>& d_anchor) const {
    const V zero{}, half = constant<V>(0.5), low = constant<V>(least), high = constant<V>(most);
    const V size = anchor.size(), times = factor(offset);
    const Span<V> box = unclipped(offset, anchor, times);
    const V d_low = select((box.low < low) | (box.low > high), zero, grad.low);
    const V d_high = select((box.high < low) | (box.high > high), zero, grad.high);
    const V d_centre = d_low + d_high, d_grown = half * (d_high - d_low) * times;
    const V growth = offset.growth * constant<V>(growth_scale);
    d_offset = {d_centre * size * constant<V>(shift_scale),
                select(growth > constant<V>(most_growth), zero, d_grown * size * constant<V>(growth_scale))};
    const V d_size = d_centre * (offset.shift * constant<V>(shift_scale) + half) + d_grown;
    d_anchor = {d_centre - d_size, d_size};
  }

 private:
  template <typename V>
  DETOPS_HD V factor(const Offset<V>& offset) const {
    return exponential(min(offset.growth * constant<V>(growth_scale), constant<V>(most_growth)));
  }
  template <typename V>
  DETOPS_HD Span<V> unclipped(const Offset<V>& offset, const Span<V>& anchor, V times) const {
    const V size = anchor.size(), half = constant<V>(0.5) * (times * size);
    const V centre = offset.shift * constant<V>(shift_scale) * size + anchor.centre();
    return {centre - half, centre + half};
  }
};

// ---- What the operators do to the rows of four numbers of their tensors: corners, or (dx, dy, dw, dh). -------------

template <typename V>
using Row = Box<V>;
template <typename V>
DETOPS_HD Span<V> span_x(const Row<V>& row) {
  return {row.x1, row.x2};
}
template <typename V>
DETOPS_HD Span<V> span_y(const Row<V>& row) {
  return {row.y1, row.y2};
}
template <typename V>
DETOPS_HD Offset<V> offset_x(const Row<V>& row) {
  return {row.x1, row.x2};
}
template <typename V>
DETOPS_HD Offset<V> offset_y(const Row<V>& row) {
  return {row.y1, row.y2};
}
template <typename V>
DETOPS_HD Row<V> row_of(const Span<V>& x, const Span<V>& y) {
  return {x.low, y.low, x.high, y.high};
}
template <typename V>
DETOPS_HD Row<V> row_of(const Offset<V>& x, const Offset<V>& y) {
  return {x.shift, y.shift, x.growth, y.growth};
}

template <typename A>
struct EncodeRows {  // boxes, anchors -> offsets
  static constexpr int kInputs = 2, kOutputs = 1;
  AxisEncoder<A> x, y;

  template <typename V>
  DETOPS_HD void operator()(const Row<V> (&in)[2], Row<V> (&out)[1]) const {
    out[0] = row_of(x.encode(span_x(in[0]), span_x(in[1])), y.encode(span_y(in[0]), span_y(in[1])));
  }
};

template <typename A>
struct EncodeRowsBackward {  // boxes, anchors, gradient -> gradients of boxes, anchors
  static constexpr int kInputs = 3, kOutputs = 2;
  AxisEncoder<A> x, y;

  template <typename V>
  DETOPS_HD void operator()(const Row<V> (&in)[3], Row<V> (&out)[2]) const {
    Span<V> box_x, box_y, anchor_x, anchor_y;
    x.backward(span_x(in[0]), span_x(in[1]), offset_x(in[2]), box_x, anchor_x);
    y.backward(span_y(in[0]), span_y(in[1]), offset_y(in[2]), box_y, anchor_y);
    out[0] = row_of(box_x, box_y);
    out[1] = row_of(anchor_x, anchor_y);
  }
};

template <typename A>
struct DecodeRows {  // offsets, anchors -> boxes
  static constexpr int kInputs = 2, kOutputs = 1;
  AxisDecoder<A> x, y;

  template <typename V>
  DETOPS_HD void operator()(const Row<V> (&in)[2], Row<V> (&out)[1]) const {
    out[0] = row_of(x.decode(offset_x(in[0]), span_x(in[1])), y.decode(offset_y(in[0]), span_y(in[1])));
  }
};

template <typename A>
struct DecodeRowsBackward {  // offsets, anchors, gradient -> gradients of offsets, anchors
  static constexpr int kInputs = 3, kOutputs = 2;
  AxisDecoder<A> x, y;

  template <typename V>
  DETOPS_HD void operator()(const Row<V> (&in)[3], Row<V> (&out)[2]) const {
    Offset<V> offset_of_x, offset_of_y;
    Span<V> anchor_x, anchor_y;
    x.backward(offset_x(in[0]), span_x(in[1]), span_x(in[2]), offset_of_x, anchor_x);
    y.backward(offset_y(in[0]), span_y(in[1]), span_y(in[2]), offset_of_y, anchor_y);
    out[0] = row_of(offset_of_x, offset_of_y);
    out[1] = row_of(anchor_x, anchor_y);
  }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename Out, typename Fn>
struct RowsArgs {
  RawBoxes inputs[Fn::kInputs];  // (images, rows, 4); a stride is 0 where one row serves many
  Out* outputs[Fn::kOutputs];    // dense; null if not wanted
  int64_t images, rows;
  Fn fn;
};
template <typename Out, typename Fn>
void map_rows_cuda(const char* op, const RowsArgs<Out, Fn>& args, void* stream);
}  // namespace detops
