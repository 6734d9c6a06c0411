// CPU: the numbers of those rows that a condition holds for, in two passes: a bit for each, then the numbers.
#pragma once
#include <algorithm>
#include <numeric>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/simd.h"
#include "../core/tensor.h"
#include "row_bits.h"

namespace detops {
constexpr int64_t kRowPiece = 256;            // rows read at a time
constexpr int64_t kRowBlock = 8 * kRowPiece;  // rows whose marked ones are counted apart, whoever does it

// Where the bits of a byte are set, from the lowest.
struct SetBits {
  uint8_t of[256][8] = {};

  constexpr SetBits() {
    for (int byte = 0; byte < 256; ++byte) {
      for (int bit = 0, count = 0; bit < 8; ++bit) {
        if (byte >> bit & 1) of[byte][count++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
constexpr SetBits kSetBits;

// The numbers, from `first`, of the bits that are set; there are `count` of them.
DETOPS_HD void write_indices(const RowBits* bits, int64_t first, int64_t count, int64_t* to) {
  int64_t* const end = to + count;
  for (; to < end; ++bits, first += kBitsOfRows) {
    RowBits word = *bits;
    if (word == ~RowBits{0}) {
      for (int64_t k = 0; k < kBitsOfRows; ++k) to[k] = first + k;
      to += kBitsOfRows;
      continue;
    }
    for (int64_t at = first; word != 0; word >>= 8, at += 8) {
      const uint8_t* set = kSetBits.of[word & 0xff];
      const int many = __builtin_popcount(word & 0xff);
      if (end - to >= 8) {
        for (int k = 0; k < 8; ++k) to[k] = at + set[k];  // those beyond `many` will be overwritten
      } else {
        for (int k = 0; k < many; ++k) to[k] = at + set[k];
      }
      to += many;
    }
  }
}

// (K,) int64, ascending. mark(isa, begin, count, bits) writes one bit for each of rows [begin, begin + count), which
// end with a piece or with all n, zeros behind them, and returns how many are set.
template <typename Mark>
Tensor marked_rows(const Tensor& like, int64_t n, double nanoseconds_each, const Mark& mark) {
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock, grain = grain_for(nanoseconds_each * kRowBlock);
  const Scratch<RowBits> bits(words_of(n));
  const Scratch<int64_t> ends(blocks);  // of each block's in the output
  parallel_for(blocks, grain, [&](int64_t first, int64_t last) {
    simd([&](auto isa) DETOPS_INLINE {
      for (int64_t block = first; block < last; ++block) {
        const int64_t end = std::min(n, (block + 1) * kRowBlock);
        int64_t marked = 0;
        for (int64_t i = block * kRowBlock; i < end; i += kRowPiece) {
          marked += mark(isa, i, std::min(kRowPiece, end - i), bits.get() + i / kBitsOfRows);
        }
        ends.get()[block] = marked;
      }
    });
  });
  std::partial_sum(ends.get(), ends.get() + blocks, ends.get());
  Tensor rows = new_tensor<1>(like, {blocks > 0 ? ends.get()[blocks - 1] : 0}, ScalarType::Long);
  int64_t* to = mutable_data<int64_t>(rows);
  parallel_for(blocks, grain, [&](int64_t first, int64_t last) {
    simd([&](auto) DETOPS_INLINE {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block > 0 ? ends.get()[block - 1] : 0, i = block * kRowBlock;
        write_indices(bits.get() + i / kBitsOfRows, i, ends.get()[block] - begin, to + begin);
      }
    });
  });
  return rows;
}
}  // namespace detops
