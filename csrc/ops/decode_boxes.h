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

// Along one axis; A is float or double, V that or a SIMD vector of it. On the CPU A may be that vector, too: a lane of
// it for x, the next for y.
template <typename A>
struct AxisEncoder {
  A shift_weight, growth_weight;

  template <typename V>
  DETOPS_HD Offset<V> encode(const Span<V>& box, const Span<V>& anchor) const {
    const V size = anchor.size();
    return {(V{} + shift_weight) * (box.centre() - anchor.centre()) / size,
            (V{} + growth_weight) * logarithm(box.size() / size)};
  }

  template <typename V>
  DETOPS_HD void backward(const Span<V>& box, const Span<V>& anchor, const Offset<V>& grad, Span<V>& d_box,
                          Span<V>& d_anchor) const {
    const V size = anchor.size(), half = constant<V>(0.5);
    const V d_centre = (V{} + shift_weight) * grad.shift / size, d_log = (V{} + growth_weight) * grad.growth;
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
    const V low = V{} + least, high = V{} + most;
    return {min(max(box.low, low), high), min(max(box.high, low), high)};
  }

  // A coordinate or growth beyond its limit passes no gradient.
  template <typename V>
  DETOPS_HD void backward(const Offset<V>& offset, const Span<V>& anchor, const Span<V>& grad, Offset<V>& d_offset,
                          Span<V>& d_anchor) const {
    const V zero{}, half = constant<V>(0.5);
    const V size = anchor.size(), times = factor(offset);
    const Span<V> box = unclipped(offset, anchor, times);
    const V d_low = inside(box.low, grad.low), d_high = inside(box.high, grad.high);
    const V d_centre = d_low + d_high, d_grown = half * (d_high - d_low) * times;
    const V growth = offset.growth * (V{} + growth_scale);
    d_offset = {d_centre * size * (V{} + shift_scale),
                select(growth > (V{} + most_growth), zero, d_grown * size * (V{} + growth_scale))};
    const V d_size = d_centre * (offset.shift * (V{} + shift_scale) + half) + d_grown;
    d_anchor = {d_centre - d_size, d_size};
  }

 private:
  template <typename V>
  DETOPS_HD V factor(const Offset<V>& offset) const {
    return exponential(min(offset.growth * (V{} + growth_scale), V{} + most_growth));
  }
  template <typename V>
  DETOPS_HD Span<V> unclipped(const Offset<V>& offset, const Span<V>& anchor, V times) const {
    const V size = anchor.size(), half = constant<V>(0.5) * (times * size);
    const V centre = offset.shift * (V{} + shift_scale) * size + anchor.centre();
    return {centre - half, centre + half};
  }
  // Of a coordinate that is not clipped.
  template <typename V>
  DETOPS_HD V inside(V coordinate, V grad) const {
    const V outside_by = max((V{} + least) - coordinate, coordinate - (V{} + most));
    return select(outside_by > V{}, V{}, grad);
  }
};

// ---- What the operators do to the rows of four numbers of their tensors: corners, or (dx, dy, dw, dh). -------------

// Numbers 0 and 2 of a row, which are of x, or 1 and 3, of y.
template <typename V>
struct OfAxis {
  V first, second;

  DETOPS_HD OfAxis() {}
  DETOPS_HD OfAxis(V first_, V second_) : first(first_), second(second_) {}
  DETOPS_HD OfAxis(const Span<V>& span) : first(span.low), second(span.high) {}
  DETOPS_HD OfAxis(const Offset<V>& offset) : first(offset.shift), second(offset.growth) {}

  DETOPS_HD Span<V> span() const { return {first, second}; }
  DETOPS_HD Offset<V> offset() const { return {first, second}; }
};

template <typename A>
struct EncodeRows : AxisEncoder<A> {  // boxes, anchors -> offsets
  static constexpr int kInputs = 2, kOutputs = 1;

  template <typename V>
  DETOPS_HD void operator()(const OfAxis<V> (&in)[2], OfAxis<V> (&out)[1]) const {
    out[0] = this->encode(in[0].span(), in[1].span());
  }
};

template <typename A>
struct EncodeRowsBackward : AxisEncoder<A> {  // boxes, anchors, gradient -> gradients of boxes, anchors
  static constexpr int kInputs = 3, kOutputs = 2;

  template <typename V>
  DETOPS_HD void operator()(const OfAxis<V> (&in)[3], OfAxis<V> (&out)[2]) const {
    Span<V> of_box, of_anchor;
    this->backward(in[0].span(), in[1].span(), in[2].offset(), of_box, of_anchor);
    out[0] = of_box;
    out[1] = of_anchor;
  }
};

template <typename A>
struct DecodeRows : AxisDecoder<A> {  // offsets, anchors -> boxes
  static constexpr int kInputs = 2, kOutputs = 1;

  template <typename V>
  DETOPS_HD void operator()(const OfAxis<V> (&in)[2], OfAxis<V> (&out)[1]) const {
    out[0] = this->decode(in[0].offset(), in[1].span());
  }
};

template <typename A>
struct DecodeRowsBackward : AxisDecoder<A> {  // offsets, anchors, gradient -> gradients of offsets, anchors
  static constexpr int kInputs = 3, kOutputs = 2;

  template <typename V>
  DETOPS_HD void operator()(const OfAxis<V> (&in)[3], OfAxis<V> (&out)[2]) const {
    Offset<V> of_offset;
    Span<V> of_anchor;
    this->backward(in[0].offset(), in[1].span(), in[2].span(), of_offset, of_anchor);
    out[0] = of_offset;
    out[1] = of_anchor;
  }
};

// ---- CUDA ----------------------------------------------------------------------------------------------------------

template <typename Out, typename Fn>
struct RowsArgs {
  RawBoxes inputs[Fn::kInputs];  // (images, rows, 4); a stride is 0 where one row serves many
  Out* outputs[Fn::kOutputs];    // dense; null if not wanted
  int64_t images, rows;
  Fn x, y;
};
template <typename Out, typename Fn>
void map_rows_cuda(const char* op, const RowsArgs<Out, Fn>& args, void* stream);
}  // namespace detops
