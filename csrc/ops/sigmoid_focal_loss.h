// Focal loss of logits: RetinaNet (arXiv:1708.02002, section 3). With q = |t - sigmoid(x)| for a target t of 0 or 1,
// the loss is -alpha_t q^gamma log(1 - q).
#pragma once
#include "../math/logistic.h"
#include "pair_loss.h"
#if !defined(__CUDACC__)
#include "../core/simd.h"
#endif

namespace detops {
// -log, where it is multiplied by what is 0 if it is larger than this: the product is then 0, not NaN.
template <typename V>
DETOPS_HD V finite(V minus_log) {
  return min(minus_log, constant<V>(1e4));
}

template <typename A>
struct FocalTerms {
  static constexpr int kVariants = 2, kUnroll = 1;
  static constexpr double kNeutral = -INFINITY, kNanoseconds = 1.0;

  A positive, negative;  // weights: alpha and 1 - alpha
  A gamma;
  bool squares;  // gamma is 2

  // A negative alpha: no weights.
  FocalTerms(double alpha, double gamma_)
      : positive(static_cast<A>(alpha < 0 ? 1 : alpha)),
        negative(static_cast<A>(alpha < 0 ? 1 : 1 - alpha)),
        gamma(static_cast<A>(gamma_)),
        squares(gamma_ == 2) {}

  DETOPS_HD int variant() const { return squares; }

  // Of a target that is 0 or 1. Sums and products choose exactly what a comparison would, and faster.
  template <int kSquares, typename V>
  DETOPS_HD LossAndSlope<V> hard(V x, V t) const {
    const V sign = constant<V>(1) - (t + t), not_t = constant<V>(1) - t;
    const Logistic<V> wrong(x * sign);  // the logit of the wrong answer
    const V cross_entropy = wrong.minus_log_not_p();
    const V modulation = kSquares ? wrong.p * wrong.p : exponential((V{} - gamma) * finite(wrong.minus_log_p()));
    const V scale = (t * (V{} + positive) + not_t * (V{} + negative)) * modulation;
    const V slope = scale * (wrong.p + (V{} + gamma) * wrong.not_p * finite(cross_entropy));
    return {scale * cross_entropy, slope * sign};
  }

  // What the loss of a soft target is made of.
  template <typename V>
  struct Soft {
    V q, modulation, modulation_slope;  // q = p (1 - t) + (1 - p) t; q^gamma and its derivative
    V cross_entropy, scale;
  };
  template <int kSquares, typename V>
  DETOPS_HD Soft<V> soft(const Logistic<V>& of, V t) const {
    const V not_t = constant<V>(1) - t, q = of.p * not_t + of.not_p * t, g = V{} + gamma;
    const V cross_entropy = t * of.minus_log_p() + not_t * of.minus_log_not_p();
    const V scale = t * (V{} + positive) + not_t * (V{} + negative);
    if constexpr (kSquares) return {q, q * q, q + q, cross_entropy, scale};
    const V log = logarithm(max(q, constant<V>(1e-37)));
    return {q, exponential(g * log), g * exponential((g - constant<V>(1)) * log), cross_entropy, scale};
  }
};

// With respect to the logits.
template <typename A>
struct FocalLoss : FocalTerms<A> {
  using FocalTerms<A>::FocalTerms;

  template <int kSquares, typename V>
  DETOPS_HD LossAndSlope<V> at(V x, V t) const {
    const V one = constant<V>(1), softness = t * (one - t);
    const LossAndSlope<V> hard = this->template hard<kSquares>(x, t);
    if (all(softness == V{})) return hard;
    const Logistic<V> of(x);
    const auto terms = this->template soft<kSquares>(of, t);
    const V slope_of_q = of.p * of.not_p * (one - (t + t));
    const V slope = (of.p * (one - t) - of.not_p * t) * terms.modulation +
                    finite(terms.cross_entropy) * terms.modulation_slope * slope_of_q;
    const LossAndSlope<V> between{terms.scale * terms.cross_entropy * terms.modulation, terms.scale * slope};
    if constexpr (std::is_arithmetic_v<V>) return between;
    return {select(softness == V{}, hard.loss, between.loss), select(softness == V{}, hard.slope, between.slope)};
  }
};

// With respect to the targets; backward only.
template <typename A>
struct FocalLossOfTargets : FocalTerms<A> {
  using FocalTerms<A>::FocalTerms;

  template <int kSquares, typename V>
  DETOPS_HD LossAndSlope<V> at(V x, V t) const {
    const Logistic<V> of(x);
    const auto terms = this->template soft<kSquares>(of, t);
    const V of_scale = (V{} + (this->positive - this->negative)) * terms.cross_entropy * terms.modulation;
    const V of_modulation = terms.cross_entropy * terms.modulation_slope * (of.not_p - of.p);
    return {V{}, of_scale + terms.scale * (of_modulation - x * terms.modulation)};
  }
};

// ---- From labels ---------------------------------------------------------------------------------------------------

// How the target of a class is coded: 1 for the label's, 0 for the others, this for all of an ignored label.
constexpr double kIgnored = -1;

template <typename A>
struct FocalLossOfCodes : FocalTerms<A> {
  using FocalTerms<A>::FocalTerms;

  template <int kSquares, typename V>
  DETOPS_HD LossAndSlope<V> at(V x, V code) const {
    return this->template hard<kSquares>(select(code < V{}, constant<V>(this->kNeutral), x), code);
  }
};

// Labels of logits that have one axis more, of C classes: a class, C for none, all else ignored.
struct RawLabels {
  const char* data;
  ScalarType dtype;  // an integer
  int64_t classes;
  int class_axis;                       // of the loop over the logits; -1 if there is one class alone
  int64_t strides[RawLoop::kMostAxes];  // in elements, by axis of the loop
  bool in_packs = true;                 // computed, not read

  DETOPS_HD int64_t load(int64_t at) const {
    switch (dtype) {
      case ScalarType::Byte:
        return reinterpret_cast<const uint8_t*>(data)[at];
      case ScalarType::Char:
        return reinterpret_cast<const int8_t*>(data)[at];
      case ScalarType::Short:
        return reinterpret_cast<const int16_t*>(data)[at];
      case ScalarType::Int:
        return reinterpret_cast<const int32_t*>(data)[at];
      default:
        return reinterpret_cast<const int64_t*>(data)[at];
    }
  }
};
}  // namespace detops
