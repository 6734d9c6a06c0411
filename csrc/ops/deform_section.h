// What the CPU kernels of deformable convolution work on: channels in vectors, each vector of one offset group, and
// columns in pieces, each of one group of the weight.
//
// Where channels lie side by side, a sample is four loads and a few products for a whole vector of them. So images are
// packed into slabs of interleaved channels, with zeros around the map, and no sample needs to ask where the map ends.
// Columns come out with the channels innermost, and the matrix product takes them as they are.
#pragma once
#include <algorithm>
#include <vector>

#include "deform_conv2d.h"

namespace detops {
// Neighbouring channels of a vector whose columns lie side by side too: that of kernel point k at column + k * step.
struct ColumnRun {
  int64_t lane, count, column, step;
};

struct ChannelBlock {
  int64_t channel, count, offset_group;
  std::vector<ColumnRun> runs;
};

// Channels that one matrix product takes: columns (points, count) of each pixel.
struct WeightPiece {
  int64_t channel, count, group, column;
};

struct DeformSection {
  int64_t channel, channels, points;
  std::vector<ChannelBlock> blocks;
  std::vector<WeightPiece> pieces;

  DeformSection(const DeformShape& shape, int64_t channel, int64_t channels, int64_t lanes)
      : channel(channel), channels(channels), points(shape.points()) {
    const int64_t end = channel + channels;
    for (int64_t c = channel; c < end;) {
      const int64_t group = c / shape.group_channels(), next = std::min(end, (group + 1) * shape.group_channels());
      pieces.push_back({c, next - c, group, (c - channel) * points});
      c = next;
    }
    for (int64_t c = channel; c < end;) {
      const int64_t group = c / shape.offset_channels();
      const int64_t next = std::min({end, c + lanes, (group + 1) * shape.offset_channels()});
      blocks.push_back({c, next - c, group, {}});
      for (const WeightPiece& piece : pieces) {
        const int64_t first = std::max(c, piece.channel), last = std::min(next, piece.channel + piece.count);
        if (first >= last) continue;
        blocks.back().runs.push_back({first - c, last - first, piece.column + first - piece.channel, piece.count});
      }
      c = next;
    }
  }

  int64_t columns() const { return channels * points; }
  int64_t first_offset_group() const { return blocks.front().offset_group; }
  int64_t offset_groups() const { return blocks.back().offset_group + 1 - first_offset_group(); }

  // The weight (out_channels / groups, channels / groups, points) of each group with its points outside its channels:
  // for each piece (group_outputs, points, count), one after the other, and back.
  template <typename Visit>
  void for_each_weight(const DeformShape& shape, const Visit& visit) const {
    int64_t at = 0;
    for (const WeightPiece& piece : pieces) {
      const int64_t first = piece.channel - piece.group * shape.group_channels();
      for (int64_t o = piece.group * shape.group_outputs(); o < (piece.group + 1) * shape.group_outputs(); ++o) {
        for (int64_t k = 0; k < points; ++k, at += piece.count) visit(o, first, k, piece.count, at);
      }
    }
  }
  int64_t weights(const DeformShape& shape) const { return columns() * shape.group_outputs(); }
};

// How images lie in a slab, in vectors: rows of blocks of pixels. The pixels around the map are zero, and so are two
// rows below, which samples off the map read.
struct SlabLayout {
  int64_t blocks, line, row, size;

  SlabLayout(const DeformShape& shape, const DeformSection& section)
      : blocks(static_cast<int64_t>(section.blocks.size())),
        line((shape.x.size + 2) | 1),  // odd, so that blocks fall into different sets of the cache
        row(blocks * line),
        size(row * (shape.y.size + 3)) {}

  // Of the first block.
  int64_t place(int64_t y, int64_t x) const { return (y + 1) * row + x + 1; }
};

// Where a kernel point samples the slab, and the mask.
template <typename A>
struct SlabSample {
  int64_t place;
  A y, x, mask;
};
}  // namespace detops
