// A bit for each of many rows.
#pragma once
#include <cstdint>

namespace detops {
// Bits of rows 32 i, 32 i + 1, ...
using RowBits = uint32_t;
constexpr int64_t kBitsOfRows = 32;
constexpr int64_t words_of(int64_t rows) { return (rows + kBitsOfRows - 1) / kBitsOfRows; }

}  // namespace detops
