// Sine and cosine, the same bits on every device: range reduction after Cody and Waite, and the polynomials of Sun's
// fdlibm. Within a unit in the last place of 1.
#pragma once
#include <cstdint>

#include "../core/device.h"

namespace detops {
struct Direction {
  double cos, sin;
};

// The largest angle that is taken for one, in radians or degrees: there, neighbours in float are 32 apart.
constexpr double kLargestAngle = 0x1p29;

namespace trigonometry_detail {
// To the nearest integer, ties to even, of magnitudes below 2^51.
DETOPS_HD double nearest_integer(double x) {
  constexpr double kOnlyIntegers = 0x1.8p52;
  return (x + kOnlyIntegers) - kOnlyIntegers;
}

// Of `quarters` right angles and x more, at most a half of one.
DETOPS_HD Direction direction(double quarters, double x) {
  const double z = x * x;
  const double s =
      8.33333333332248946124e-03 +
      z * (-1.98412698298579493134e-04 +
           z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)));
  const double sin = x + z * x * (-1.66666666666666324348e-01 + z * s);
  const double c = z * (4.16666666666666019037e-02 +
                        z * (-1.38888888888741095749e-03 +
                             z * (2.48015872894767294178e-05 +
                                  z * (-2.75573143513906633035e-07 +
                                       z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  const double half = 0.5 * z, rest = 1 - half;
  const double cos = rest + ((1 - rest - half) + z * c);
  switch (static_cast<int64_t>(quarters) & 3) {
    case 0:
      return {cos, sin};
    case 1:
      return {-sin, cos};
    case 2:
      return {-cos, -sin};
    default:
      return {sin, -cos};
  }
}
}  // namespace trigonometry_detail

// Of an angle in radians, up to kLargestAngle either way.
DETOPS_HD Direction direction_of_radians(double angle) {
  using namespace trigonometry_detail;
  const double n = nearest_integer(angle * 0.63661977236758134308);
  // A right angle in parts of 24 bits, so that products with n are exact, and the rest of it.
  const double x = angle - n * 0x1.921fb4p+0 - n * 0x1.4442dp-24 - n * 0x1.846988p-48 - n * 0x1.8cc51701b839ap-72;
  return direction(n, x);
}

// Of an angle in degrees, up to kLargestAngle either way; exact at right angles.
DETOPS_HD Direction direction_of_degrees(double angle) {
  using namespace trigonometry_detail;
  const double n = nearest_integer(angle * (1.0 / 90));
  return direction(n, (angle - n * 90) * 0.017453292519943295769);
}
}  // namespace detops
