// Which boxes have both sides at least so long: a bit for each, then the indices of those that are set.
#pragma once
#include "raw_boxes.h"
#include "row_bits.h"

namespace detops {
// The length of a side as PyTorch subtracts: that of integers wraps in their own type. Half precision's is not rounded
// to it: `least` takes that into account.
template <typename A, typename T>
DETOPS_HD A side(T low, T high) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<A>(static_cast<T>(static_cast<U>(high) - static_cast<U>(low)));
  } else {
    return static_cast<A>(high) - static_cast<A>(low);
  }
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

// How the rows are divided among blocks, each of whole tiles.
struct RowParts {
  static constexpr int64_t kTile = 256;
  int64_t parts, rows;  // of all; of a part

  explicit RowParts(int64_t size) {
    const int64_t tiles = (size + kTile - 1) / kTile, tiles_of_part = (tiles + kManyBlocks - 1) / kManyBlocks;
    rows = tiles_of_part * kTile;
    parts = tiles > 0 ? (tiles + tiles_of_part - 1) / tiles_of_part : 0;
  }
};

struct RemoveSmallArgs {
  RawBoxes boxes;  // (1, N, 4), not empty
  double least;    // a number of the type that sides are computed in
  RowParts divided;
  RowBits* bits;    // words_of(N)
  int64_t* counts;  // of each part's
  int64_t* keep;    // (N,)
  int64_t* count;   // of all that are kept
};
// T: the boxes' dtype.
template <typename T>
void remove_small_boxes_cuda(const RemoveSmallArgs& args, void* stream);
}  // namespace detops
