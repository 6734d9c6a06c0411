// The exponential and the logarithm, the same bits on every device and instruction set: the argument is reduced by
// powers of two, then a Taylor series. Within 2 units in the last place, subnormal results too. V is float, double or,
// on the CPU, a SIMD vector of them.
#pragma once
#include "../core/device.h"
#if !defined(__CUDACC__)
#include "../core/simd.h"
#endif

namespace detops {
// How a number is laid out in memory: its fraction, of kFraction bits, below its exponent plus kBias.
template <typename V>
struct Layout {
#if !defined(__CUDACC__)
  using Lane = Layout<std::decay_t<decltype(V{}[0])>>;
  typedef typename Lane::Bits Bits __attribute__((vector_size(sizeof(V))));
  static constexpr int kFraction = Lane::kFraction, kBias = Lane::kBias;
  static constexpr bool kIsDouble = Lane::kIsDouble;
#endif
};
template <>
struct Layout<float> {
  using Bits = uint32_t;
  static constexpr int kFraction = 23, kBias = 127;
  static constexpr bool kIsDouble = false;
};
template <>
struct Layout<double> {
  using Bits = uint64_t;
  static constexpr int kFraction = 52, kBias = 1023;
  static constexpr bool kIsDouble = true;
};

// Added to a smaller number, leaves its integer in the lowest bits, rounded to the nearest even.
template <typename V>
DETOPS_HD V integer_shift() {
  return constant<V>(1.5 * static_cast<double>(uint64_t{1} << Layout<V>::kFraction));
}

// Of an integer from -kBias, where it is 0, to kBias.
template <typename V>
DETOPS_HD V power_of_two(V n) {
  using Bits = typename Layout<V>::Bits;
  return bit_cast<V>((bit_cast<Bits>(n + integer_shift<V>()) + Layout<V>::kBias) << Layout<V>::kFraction);
}

// first + second * x + third * x^2 + ...
template <typename V, typename... Coefficients>
DETOPS_HD V polynomial(V x, double first, Coefficients... others) {
  if constexpr (sizeof...(others) == 0) {
    return constant<V>(first);
  } else {
    return constant<V>(first) + x * polynomial(x, others...);
  }
}

// e^x.
template <typename V>
DETOPS_HD V exponential(V x) {
  constexpr bool kIsDouble = Layout<V>::kIsDouble;
  x = min(x, constant<V>(kIsDouble ? 710 : 89));  // beyond, the result is infinity or 0; NaN stays
  x = max(x, constant<V>(kIsDouble ? -746 : -104));
  const V shifted = x * constant<V>(1.4426950408889634) + integer_shift<V>(), n = shifted - integer_shift<V>();
  // x = n log(2) + r; the first part of log(2) is so short that its product with n is exact.
  const V r = kIsDouble ? (x - n * constant<V>(0.693147180369123816)) - n * constant<V>(1.90821492927058770e-10)
                        : (x - n * constant<V>(0.693359375)) - n * constant<V>(-2.12194440054690583e-4);
  const V square = r * r;
  V p;
  if constexpr (kIsDouble) {
    p = polynomial(r, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                   1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800);
  } else {  // its terms in pairs: a processor that waits for each operation is done in half the time
    p = (polynomial(r, 1.0 / 2, 1.0 / 6) + square * polynomial(r, 1.0 / 24, 1.0 / 120)) +
        square * square * polynomial(r, 1.0 / 720, 1.0 / 5040);
  }
  const V y = (square * p + r) + constant<V>(1);
  constexpr int kNormal = Layout<V>::kBias - 2;  // for -kNormal to kNormal, y 2^n is a normal number
  if (all(n * n <= constant<V>(kNormal * kNormal))) {
    using Bits = typename Layout<V>::Bits;
    return bit_cast<V>(bit_cast<Bits>(y) + (bit_cast<Bits>(shifted) << Layout<V>::kFraction));
  }
  // 2^n in two factors: it may be beyond the largest or below the smallest number where y 2^n is not.
  const V half = (n * constant<V>(0.5) + integer_shift<V>()) - integer_shift<V>();
  return y * power_of_two(half) * power_of_two(n - half);
}

// x = (1 + fraction) 2^exponent, 1 + fraction being from sqrt(1 / 2) to sqrt(2).
template <typename V>
struct Scaled {
  V fraction, exponent;
};

// Of a positive normal number.
template <typename V>
DETOPS_HD Scaled<V> scaled(V x) {
  using Bits = typename Layout<V>::Bits;
  constexpr int kFraction = Layout<V>::kFraction;
  const V one = constant<V>(1), shift = integer_shift<V>(), bias = constant<V>(Layout<V>::kBias);
  const Bits sqrt_half = bit_cast<Bits>(constant<V>(0.70710678118654752));
  const Bits bits = bit_cast<Bits>(x) + (bit_cast<Bits>(one) - sqrt_half);
  const Bits fraction_bits = constant<Bits>(static_cast<double>((uint64_t{1} << kFraction) - 1));
  const V mantissa = bit_cast<V>((bits & fraction_bits) + sqrt_half);
  const V exponent = bit_cast<V>((bits >> kFraction) + bit_cast<Bits>(shift)) - (shift + bias);
  return {mantissa - one, exponent};
}

// log((1 + fraction) 2^exponent), as in Sun's fdlibm: with s = fraction / (2 + fraction), log(1 + fraction) =
// 2 (s + s^3 / 3 + s^5 / 5 + ...).
template <typename V>
DETOPS_HD V log_of(const Scaled<V>& x) {
  constexpr bool kIsDouble = Layout<V>::kIsDouble;
  const V s = x.fraction / (constant<V>(2) + x.fraction), z = s * s;
  V p;
  if constexpr (kIsDouble) {
    p = polynomial(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21);
  } else {
    p = polynomial(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9);
  }
  const V high = constant<V>(kIsDouble ? 0.693147180369123816 : 0.693359375);  // of log(2); times an exponent, exact
  const V low = constant<V>(kIsDouble ? 1.90821492927058770e-10 : -2.12194440054690583e-4);
  const V half_square = constant<V>(0.5) * x.fraction * x.fraction;
  return x.exponent * high + (x.fraction - (half_square - (s * (half_square + z * p) + x.exponent * low)));
}

// log(x); -infinity at 0, NaN below.
template <typename V>
DETOPS_HD V logarithm(V x) {
  const auto subnormal = x < constant<V>(Layout<V>::kIsDouble ? 0x1p-1022 : 0x1p-126);
  const V up = constant<V>(static_cast<double>(uint64_t{1} << 53));
  Scaled<V> parts = scaled(select(subnormal, x * up, x));
  parts.exponent = parts.exponent - select(subnormal, constant<V>(53), V{});
  const V result = select(x < constant<V>(INFINITY), log_of(parts), x);  // infinity and NaN stay
  return select(x > V{}, result, select(x == V{}, constant<V>(-INFINITY), select(x < V{}, constant<V>(NAN), result)));
}

// log(1 + x), accurate for small x too; -infinity at -1, NaN below.
template <typename V>
DETOPS_HD V logarithm1p(V x) {
  const V one = constant<V>(1), sum = one + x, added = sum - one;
  const V lost = (one - (sum - added)) + (x - added);  // sum + lost is 1 + x exactly
  Scaled<V> parts = scaled(sum);
  const V significant = constant<V>(static_cast<double>(uint64_t{1} << (Layout<V>::kFraction + 3)));
  parts.fraction = parts.fraction + select(sum < significant, lost * power_of_two(V{} - parts.exponent), V{});
  const V result = select(x < constant<V>(INFINITY), log_of(parts), x);  // infinity and NaN stay
  return select(x > -one, result,
                select(x == -one, constant<V>(-INFINITY), select(x < -one, constant<V>(NAN), result)));
}
}  // namespace detops
