// The CPU's loop of decode_boxes.h over rows of four numbers: both axes in one vector, x and y in turn.
#pragma once
#include <algorithm>
#include <cstring>

#include "box_columns.h"
#include "decode_boxes.h"

namespace detops {
constexpr int64_t kRows = 256;  // that a task reads at a time

// x in the first lane, y in the next, and so on.
template <typename V>
DETOPS_HD V in_turn(element_t<V> x, element_t<V> y) {
  return interleave(broadcast<V>(x), broadcast<V>(y)).a;
}
template <typename V, typename A>
DETOPS_HD AxisEncoder<V> in_turn(const AxisEncoder<A>& x, const AxisEncoder<A>& y) {
  return {in_turn<V>(x.shift_weight, y.shift_weight), in_turn<V>(x.growth_weight, y.growth_weight)};
}
template <typename V, typename A>
DETOPS_HD AxisDecoder<V> in_turn(const AxisDecoder<A>& x, const AxisDecoder<A>& y) {
  return {in_turn<V>(x.shift_scale, y.shift_scale), in_turn<V>(x.growth_scale, y.growth_scale),
          in_turn<V>(x.most_growth, y.most_growth), in_turn<V>(x.least, y.least), in_turn<V>(x.most, y.most)};
}

// The numbers of both axes in turn, of rows that fill two vectors.
template <typename V>
DETOPS_HD OfAxis<V> split(V a, V b) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) first;
  for (int i = 0; i < n; ++i) first[i] = i / 2 * 4 + i % 2;
  return {__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, first + 2)};
}
// And back.
template <typename V>
DETOPS_HD EndToEnd<V> join(const OfAxis<V>& of) {
  constexpr int n = sizeof(V) / sizeof(element_t<V>);
  decltype(V{} < V{}) front, back;
  for (int i = 0; i < n; ++i) {
    const auto lane = [](int place) { return place / 4 * 2 + place % 2 + place / 2 % 2 * n; };
    front[i] = lane(i), back[i] = lane(n + i);
  }
  return {__builtin_shuffle(of.first, of.second, front), __builtin_shuffle(of.first, of.second, back)};
}

// Rows of one image to rows of A without gaps.
template <typename V, typename T, typename A>
DETOPS_HD void copy_run(const RawBoxes& from, int64_t first, int64_t count, A* to) {
  const T* row = reinterpret_cast<const T*>(from.data) + first;
  const int64_t column = from.column_stride;
  if (from.row_stride == 4 && column == 1) {
    int64_t i = 0;
    if constexpr (std::is_same_v<acc_t<T>, A>) {
      constexpr int64_t kLanes = sizeof(V) / sizeof(A);
      for (; i + kLanes <= 4 * count; i += kLanes) store(to + i, load<V>(row + i));
    }
    for (; i < 4 * count; ++i) to[i] = static_cast<A>(row[i]);
    return;
  }
  if (from.row_stride == 0) {  // one row for many
    constexpr int64_t kPattern = 64 / sizeof(A);
    alignas(64) A pattern[kPattern];
    for (int64_t i = 0; i < kPattern; ++i) pattern[i] = static_cast<A>(row[i % 4 * column]);
    for (int64_t i = 0; i < 4 * count; i += kPattern) {
      const int64_t size = std::min(kPattern, 4 * count - i);
      if (size == kPattern) {
        std::memcpy(to + i, pattern, sizeof pattern);
      } else {
        std::copy(pattern, pattern + size, to + i);
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i, row += from.row_stride, to += 4) {
    to[0] = static_cast<A>(row[0]), to[1] = static_cast<A>(row[column]);
    to[2] = static_cast<A>(row[2 * column]), to[3] = static_cast<A>(row[3 * column]);
  }
}

// Rows [begin, begin + count) of (images, rows, 4), counted through all images; then zeros up to kRows. Compiled once,
// with its own switch of instruction sets: inlined into every kernel it would take minutes.
template <typename A>
[[gnu::noinline]] void copy_rows(const RawBoxes& from, int64_t begin, int64_t count, A* to) {
  simd([&](auto isa) DETOPS_INLINE {
    using V = Vec<decltype(isa), A>;
    for (int64_t done = 0; done < count;) {
      const int64_t image = (begin + done) / from.size, row = (begin + done) % from.size;
      const int64_t run = std::min(count - done, from.size - row);
      const int64_t first = image * from.image_stride + row * from.row_stride;
      switch (from.dtype) {
        case ScalarType::Float:
          copy_run<V, float>(from, first, run, to + 4 * done);
          break;
        case ScalarType::Double:
          copy_run<V, double>(from, first, run, to + 4 * done);
          break;
        case ScalarType::Half:
          copy_run<V, Half>(from, first, run, to + 4 * done);
          break;
        default:
          copy_run<V, BFloat16>(from, first, run, to + 4 * done);
      }
      done += run;
    }
  });
  std::fill(to + 4 * count, to + 4 * kRows, A(0));
}

// The same in place if possible, else in the buffer.
template <typename A>
DETOPS_HD const A* read(const RawBoxes& from, int64_t begin, int64_t count, A* buffer) {
  const bool in_place = from.dtype == torch::headeronly::CppTypeToScalarType<A>::value && from.row_stride == 4 &&
                        from.column_stride == 1 && begin + count <= from.size;
  if (in_place && count == kRows) return reinterpret_cast<const A*>(from.data) + 4 * begin;
  copy_rows(from, begin, count, buffer);
  return buffer;
}

template <typename A, typename Isa, typename Out, typename Fn, typename Both>
DETOPS_HD void map_block(const RowsArgs<Out, Fn>& args, const Both& both, int64_t begin, int64_t count) {
  using V = Vec<Isa, A>;
  constexpr int64_t kLanes = lanes<Isa, A>;
  alignas(64) A buffers[Fn::kInputs][4 * kRows];
  alignas(64) Out last[2 * kLanes];
  const A* from[Fn::kInputs];
  for (int k = 0; k < Fn::kInputs; ++k) from[k] = read(args.inputs[k], begin, count, buffers[k]);
  for (int64_t i = 0; i < 4 * count; i += 2 * kLanes) {
    OfAxis<V> in[Fn::kInputs], out[Fn::kOutputs];
    for (int k = 0; k < Fn::kInputs; ++k) in[k] = split(load<V>(from[k] + i), load<V>(from[k] + i + kLanes));
    both(in, out);
    const int64_t left = std::min(4 * count - i, 2 * kLanes);
    for (int k = 0; k < Fn::kOutputs; ++k) {
      if (args.outputs[k] == nullptr) continue;
      Out* const end = args.outputs[k] + 4 * begin + i;
      Out* const to = left == 2 * kLanes ? end : last;
      const EndToEnd<V> rows = join(out[k]);
      store(to, rows.a);
      store(to + kLanes, rows.b);
      if (left < 2 * kLanes) std::copy(last, last + left, end);
    }
  }
}

// Fn for vectors V of both axes.
template <typename Fn, typename V>
struct BothOf;
template <template <typename> class Fn, typename A, typename V>
struct BothOf<Fn<A>, V> {
  using type = Fn<V>;
};
template <typename Fn, typename V>
using Both = typename BothOf<Fn, V>::type;

template <typename A, typename Out, typename Fn>
void map_rows_cpu(const RowsArgs<Out, Fn>& args) {
  parallel_for(args.images * args.rows, grain_for(2.0), [&](int64_t begin, int64_t end) {
    simd([&](auto isa) DETOPS_INLINE {
      const Both<Fn, Vec<decltype(isa), A>> both{in_turn<Vec<decltype(isa), A>>(args.x, args.y)};
      for (int64_t i = begin; i < end; i += kRows) {
        map_block<A, decltype(isa)>(args, both, i, std::min(kRows, end - i));
      }
    });
  });
}
}  // namespace detops
