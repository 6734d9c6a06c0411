// Rotated boxes: centre and size in pixels, and the angle of the width. V is double or, on the CPU, a SIMD vector of
// it. Float would not do: an angle rounded to float moves the ends of a sliver by more than it is thick.
#pragma once
#include <limits>

#include "box.h"
#include "trigonometry.h"

namespace detops {
struct AngleConvention {
  bool clockwise;  // as seen in an image, whose y points down
  bool degrees;    // otherwise radians
};

template <typename V>
struct alignas(8 * sizeof(double)) RotatedBox {
  V x, y, half_width, half_height;
  V cos, sin;          // direction of the width
  V reach_x, reach_y;  // half the sides of the upright box around it
  static constexpr int kFields = 8;

  DETOPS_HD V area() const { return half_width * half_height * constant<V>(4); }
};

// A box without overlap with any: what NaN, infinite coordinates, sides of 0 or less, and angles that are none give.
constexpr double kNowhere = -std::numeric_limits<double>::infinity();
DETOPS_HD RotatedBox<double> no_rotated_box() { return {0, 0, 0, 0, 1, 0, kNowhere, kNowhere}; }

template <typename V>
DETOPS_HD V absolute(V x) {
  return select(x < V{}, V{} - x, x);
}

// Of coordinates and areas.
constexpr double kLargest = std::numeric_limits<double>::max(), kSmallest = std::numeric_limits<double>::min();

DETOPS_HD RotatedBox<double> rotated_box(double x, double y, double width, double height, double angle,
                                         AngleConvention convention) {
  const double area = width * height;
  const bool proper = width > 0 && height > 0 && area >= kSmallest && area <= kLargest && absolute(x) <= kLargest &&
                      absolute(y) <= kLargest && absolute(angle) <= kLargestAngle;  // each false for NaN
  if (!proper) return no_rotated_box();
  const Direction turn = convention.degrees ? direction_of_degrees(angle) : direction_of_radians(angle);
  const double w = width / 2, h = height / 2, cos = turn.cos, sin = convention.clockwise ? turn.sin : -turn.sin;
  const double c = absolute(cos), s = absolute(sin);
  return {x, y, w, h, cos, sin, c * w + s * h, s * w + c * h};
}

// Whether the upright boxes around two rotated ones overlap; otherwise neither do they.
template <typename V>
DETOPS_HD auto near_each_other(V x1, V y1, V reach_x1, V reach_y1, V x2, V y2, V reach_x2, V reach_y2) {
  const V dx = x2 - x1, dy = y2 - y1, rx = reach_x1 + reach_x2, ry = reach_y1 + reach_y2;
  return (dx < rx) & (V{} - dx < rx) & (dy < ry) & (V{} - dy < ry);
}
DETOPS_HD bool near_each_other(const RotatedBox<double>& a, const RotatedBox<double>& b) {
  return near_each_other(a.x, a.y, a.reach_x, a.reach_y, b.x, b.y, b.reach_x, b.reach_y);
}

// At least the area that two boxes share: the least of both areas and of what the upright boxes around them share.
template <typename V>
DETOPS_HD V shared_area_bound(V dx, V dy, V reach_x1, V reach_y1, V area1, V reach_x2, V reach_y2, V area2) {
  const V two = constant<V>(2);
  const V width = min(min(reach_x1, reach_x2) * two, reach_x1 + reach_x2 - absolute(dx));
  const V height = min(min(reach_y1, reach_y2) * two, reach_y1 + reach_y2 - absolute(dy));
  return min(max(width, V{}) * max(height, V{}), min(area1, area2));
}

namespace rotated_detail {
template <typename V>
DETOPS_HD V held(V x, V low, V high) {  // low for NaN
  return min(max(low, x), high);
}

// A straight line: a point of it and its slopes, of which one may be infinite.
template <typename V>
struct Line {
  V x, y, x_per_y, y_per_x;

  // Where it is at the height `at`, held to the square from -1 to 1.
  DETOPS_HD V x_at(V at) const { return held(x + (at - y) * x_per_y, constant<V>(-1), constant<V>(1)); }
};

// The integral of x dy from y - reach to y + reach within the square from -1 to 1, x held to it where the line is
// beside it: piecewise linear in y, so that trapezoids are exact. The pieces end where the line crosses a side. A
// coordinate is never found along the axis in which it is badly known; what is 0 / 0 or 0 * infinity belongs to a piece
// of no length, or to a line that crosses no side.
template <typename V>
DETOPS_HD V integral_along(const Line<V>& line, V reach) {
  const V one = constant<V>(1), minus_one = constant<V>(-1);
  const V low = held(line.y - reach, minus_one, one), high = held(line.y + reach, minus_one, one);
  const V left = line.y + (minus_one - line.x) * line.y_per_x, right = line.y + (one - line.x) * line.y_per_x;
  const V enter = held(min(left, right), low, high), leave = held(max(left, right), low, high);
  const V x_enter = line.x_at(enter), x_leave = line.x_at(leave);
  return constant<V>(0.5) * ((enter - low) * (line.x_at(low) + x_enter) + (leave - enter) * (x_enter + x_leave) +
                             (high - leave) * (x_leave + line.x_at(high)));
}

// The same up the side of a parallelogram round (x, y) whose middle is (to_x, to_y) further, and down the side across;
// half of a side is (half_x, half_y).
template <typename V>
DETOPS_HD V integral_along_both(V x, V y, V to_x, V to_y, V half_x, V half_y) {
  const V x_per_y = half_x / half_y, y_per_x = half_y / half_x, reach = absolute(half_y);
  const V difference = integral_along(Line<V>{x + to_x, y + to_y, x_per_y, y_per_x}, reach) -
                       integral_along(Line<V>{x - to_x, y - to_y, x_per_y, y_per_x}, reach);
  return select(half_y < V{}, V{} - difference, difference);
}
}  // namespace rotated_detail

// The share of a's area that b covers, 0 to 1; NaN or 0 if a or b is no box.
//
// Seen from a, whose sides become the square from -1 to 1, b is a parallelogram. By Green's theorem the area that they
// share is the integral of x dy round b, x held to the square and y within it: four terms, no case to tell apart, each
// term 4 at most. All is exact to a few times 1e-16 but for what is lost where b's sides are much longer than both of
// a's: let a be the box of lesser area.
template <typename V>
DETOPS_HD V covered_share(const RotatedBox<V>& a, const RotatedBox<V>& b) {
  const V one = constant<V>(1), per_x = one / a.half_width, per_y = one / a.half_height;
  const V dx = b.x - a.x, dy = b.y - a.y;
  const V x = (dx * a.cos + dy * a.sin) * per_x, y = (dy * a.cos - dx * a.sin) * per_y;
  const V cos = a.cos * b.cos + a.sin * b.sin, sin = a.cos * b.sin - a.sin * b.cos;  // of the angle from a to b
  const V width_x = cos * b.half_width * per_x, width_y = sin * b.half_width * per_y;
  const V height_x = (V{} - sin) * b.half_height * per_x, height_y = cos * b.half_height * per_y;
  const V area = rotated_detail::integral_along_both(x, y, width_x, width_y, height_x, height_y) -
                 rotated_detail::integral_along_both(x, y, height_x, height_y, width_x, width_y);
  const V share = area * constant<V>(0.25);
  return select(share > constant<V>(1e-14), min(share, one), V{});  // less is the rounding of sides that only touch
}

// An order of boxes, so that a result does not depend on which of two comes first.
template <typename V>
DETOPS_HD auto comes_before(const RotatedBox<V>& a, const RotatedBox<V>& b) {
  const V p = a.area(), q = b.area();
  auto before = a.sin < b.sin;
  before = (a.y < b.y) | ((a.y == b.y) & before);
  before = (a.x < b.x) | ((a.x == b.x) & before);
  before = (a.half_width < b.half_width) | ((a.half_width == b.half_width) & before);
  return (p < q) | ((p == q) & before);
}

template <typename Condition, typename V>
DETOPS_HD RotatedBox<V> choose(Condition first, const RotatedBox<V>& a, const RotatedBox<V>& b) {
  return {select(first, a.x, b.x),
          select(first, a.y, b.y),
          select(first, a.half_width, b.half_width),
          select(first, a.half_height, b.half_height),
          select(first, a.cos, b.cos),
          select(first, a.sin, b.sin),
          select(first, a.reach_x, b.reach_x),
          select(first, a.reach_y, b.reach_y)};
}

template <typename V>
DETOPS_HD V shared_area(const RotatedBox<V>& a, const RotatedBox<V>& b) {
  const auto a_first = comes_before(a, b);
  const RotatedBox<V> lesser = choose(a_first, a, b);
  return covered_share(lesser, choose(a_first, b, a)) * lesser.area();
}

// Intersection over union, or over a's area; 0 to 1, whatever the values.
template <typename V>
DETOPS_HD V rotated_overlap(const RotatedBox<V>& a, const RotatedBox<V>& b, bool over_a) {
  const V shared = shared_area(a, b), whole = over_a ? a.area() : a.area() + b.area() - shared;
  const V ratio = shared / whole;
  return select(ratio > V{}, min(ratio, constant<V>(1)), V{});
}

// The greatest double that rounds to an Out not above t: a score, found as a double, is above t once it is an Out if
// and only if it is above this. It decides ties as overlap_threshold() does.
template <typename Out>
double rotated_threshold(double t) {
  const Out threshold = overlap_threshold<Out>(t);
  if constexpr (std::is_same_v<Out, double>) return threshold;
  const Out above = std::nextafter(threshold, std::numeric_limits<Out>::infinity());
  const double middle = (static_cast<double>(threshold) + static_cast<double>(above)) / 2;
  return static_cast<Out>(middle) > threshold ? std::nextafter(middle, -std::numeric_limits<double>::infinity())
                                              : middle;
}
}  // namespace detops
