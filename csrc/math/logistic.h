// The sigmoid and the logarithms that go with it, the same bits on every device and instruction set, without overflow
// or cancellation. V is float, double or, on the CPU, a SIMD vector of them.
#pragma once
#include "exponential.h"

namespace detops {
// exp(x) of a number up to 0, in float below 2^-126 0. Its chain of dependent operations is half that of exponential():
// a processor that waits for it is bound by that.
template <typename V>
DETOPS_HD V falling_exponential(V x) {
  if constexpr (Layout<V>::kIsDouble) {
    return exponential(x);
  } else {
    using Bits = typename Layout<V>::Bits;
    const V shifted = x * constant<V>(1.4426950408889634) + integer_shift<V>(), n = shifted - integer_shift<V>();
    const V r = (x - n * constant<V>(0.693359375)) - n * constant<V>(-2.12194440054690583e-4), square = r * r;
    const V p = (polynomial(r, 1.0 / 2, 1.0 / 6) + square * polynomial(r, 1.0 / 24, 1.0 / 120)) +
                square * square * polynomial(r, 1.0 / 720, 1.0 / 5040);
    const V y = (square * p + r) + constant<V>(1);
    const V result = bit_cast<V>(bit_cast<Bits>(y) + (bit_cast<Bits>(shifted) << Layout<V>::kFraction));
    return select(x < constant<V>(-87), V{}, result);
  }
}

// log(1 + e) for e in [0, 1].
template <typename V>
DETOPS_HD V logarithm1p_of_unit(V e) {
  if constexpr (Layout<V>::kIsDouble) {
    return logarithm1p(e);
  } else {  // a polynomial through Chebyshev's points, its terms in pairs
    const V e2 = e * e, e4 = e2 * e2;
    const V low = polynomial(e, 0.9999999947, -0.4999989265) + e2 * polynomial(e, 0.333297105, -0.2495161626);
    const V middle = polynomial(e, 0.1966327426, -0.1526966708) + e2 * polynomial(e, 0.105436238, -0.05637361288);
    return e * ((low + e4 * middle) + e4 * e4 * polynomial(e, 0.01954252729, -0.003176057026));
  }
}

template <typename V>
struct Logistic {
  V p, not_p;      // sigmoid(x), sigmoid(-x)
  V log_rest;      // log(1 + exp(-|x|))
  V above, below;  // max(x, 0), max(-x, 0)

  DETOPS_HD explicit Logistic(V x) {
    const V e = falling_exponential(min(x, V{} - x));
    const V high = constant<V>(1) / (constant<V>(1) + e), low = e * high;  // sigmoid(|x|), sigmoid(-|x|)
    p = select(x > V{}, high, low);
    not_p = select(x > V{}, low, high);
    log_rest = logarithm1p_of_unit(e);
    above = max(x, V{});
    below = max(V{} - x, V{});
  }

  DETOPS_HD V minus_log_p() const { return below + log_rest; }
  DETOPS_HD V minus_log_not_p() const { return above + log_rest; }
};
}  // namespace detops
