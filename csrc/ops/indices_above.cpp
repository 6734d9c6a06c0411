#include "marked_rows.h"

namespace detops {
namespace {
// Bits of values [begin, begin + count) of which there are kRowPiece or fewer.
template <typename T, typename Isa>
DETOPS_HD int64_t mark_above(const T* values, int64_t stride, acc_t<T> least, int64_t begin, int64_t count,
                             RowBits* bits) {
  using V = Vec<Isa, acc_t<T>>;
  alignas(64) T buffer[kRowPiece];
  const T* from = values + begin * stride;
  if (stride != 1 || count < kRowPiece) {
    for (int64_t i = 0; i < count; ++i) buffer[i] = from[i * stride];
    std::fill(buffer + count, buffer + kRowPiece, static_cast<T>(-INFINITY));
    from = buffer;
  }
  const V limit = broadcast<V>(least);
  int64_t marked = 0;
  for (int64_t first = 0; first < count; first += kBitsOfRows) {
    RowBits word = 0;
    for (int64_t k = 0; k < kBitsOfRows; k += lanes<Isa, acc_t<T>>) {
      word |= detops::bits(load<V>(from + first + k) > limit) << k;
    }
    bits[first / kBitsOfRows] = word;
    marked += __builtin_popcount(word);
  }
  return marked;
}
}  // namespace

// (K,) int64, ascending, of those values (N,) that are above `least`; NaN is not. A pass at the speed of reading.
Tensor indices_above(const Tensor& values, double least) {
  const char* op = "indices_above";
  check_floating(op, "values", values);
  check_shape(op, "values", values, {kAny});
  Tensor indices;
  dispatch_floating(op, values, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto mark = [from = data<T>(values), stride = values.stride(0), least = static_cast<acc_t<T>>(least)](
                          auto isa, int64_t begin, int64_t count, RowBits* bits) DETOPS_INLINE {
      return mark_above<T, decltype(isa)>(from, stride, least, begin, count, bits);
    };
    indices = marked_rows(values, values.size(0), 0.2, mark);
  });
  return indices;
}
DETOPS_OP(indices_above, "(Tensor values, float least) -> Tensor")
}  // namespace detops
