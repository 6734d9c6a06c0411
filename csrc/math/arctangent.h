// The arctangent, in float the same bits on every device and instruction set: range reduction and an odd polynomial, as
// in Moshier's Cephes library. Within 2 units in the last place.
#pragma once
#include "../core/device.h"

namespace detops {
template <typename V>
DETOPS_HD V arctangent(V x) {
  const V one = constant<V>(1), magnitude = select(x < V{}, V{} - x, x);
  const auto steep = magnitude > constant<V>(2.414213562373095);  // tan(3 pi / 8)
  const auto even = magnitude > constant<V>(0.4142135623730950);  // tan(pi / 8)
  const V numerator = select(steep, constant<V>(-1), select(even, magnitude - one, magnitude));
  const V reduced = numerator / select(steep, magnitude, select(even, magnitude + one, one));
  const V base = select(steep, constant<V>(1.5707963267948966), select(even, constant<V>(0.7853981633974483), V{}));
  const V z = reduced * reduced;
  V p = constant<V>(8.05374449538e-2);
  p = p * z - constant<V>(1.38776856032e-1);
  p = p * z + constant<V>(1.99777106478e-1);
  p = p * z - constant<V>(3.33329491539e-1);
  const V angle = base + (p * z * reduced + reduced);
  return select(x < V{}, V{} - angle, angle);
}
DETOPS_HD double arctangent(double x) { return std::atan(x); }
}  // namespace detops
