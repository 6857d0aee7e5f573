// How the Toom-Cook passes cut time: tiles of m rows, parts of a clip, waves of parts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/conv1d_block/conv1d_block_plan.h"
#include "kernels/conv1d_block/conv1d_block_tiles.h"
#include "kernels/conv1d_block/conv1d_block_toom_cook_simd.h"

namespace n2m::conv1d_block {

// Floats from one point to the next: never a multiple of 4 KiB, or a transform would write to all
// points through the same set of the L1 cache.
inline int64_t Apart(int64_t floats) { return RoundUp(floats, 1024) + 80; }

// The tiles of a clip are cut in parts by its length alone; parts, counted through all clips, are
// taken in waves, whose transforms all threads share.
class Waves {
 public:
  Waves(int64_t batch, int64_t rows, int outs, int64_t most_tiles)
      : outs_(outs),
        clip_tiles_(CeilDiv(rows, outs)),
        clip_parts_(CeilDiv(clip_tiles_, kPartTiles)) {
    if (batch == 0 || rows == 0) return;
    part_tiles_ = CeilDiv(clip_tiles_, clip_parts_);
    parts_ = batch * clip_parts_;
    const int64_t most = std::max<int64_t>(most_tiles / part_tiles_, 1);
    wave_parts_ = CeilDiv(parts_, CeilDiv(parts_, most));
  }

  int64_t parts() const { return parts_; }
  int64_t clip_parts() const { return clip_parts_; }  // of one clip
  int64_t part_tiles() const { return part_tiles_; }  // of one part, at most
  int64_t wave_parts() const { return wave_parts_; }  // of one wave, at most
  int64_t wave_tiles() const { return wave_parts_ * part_tiles_; }
  bool one() const { return parts_ <= wave_parts_; }

  int64_t Item(int64_t part) const { return part / clip_parts_; }
  int64_t PartOfItem(int64_t part) const { return part % clip_parts_; }
  int64_t Tiles(int64_t part) const {
    return std::min(part_tiles_, clip_tiles_ - PartOfItem(part) * part_tiles_);
  }
  int64_t Row(int64_t part) const { return PartOfItem(part) * part_tiles_ * outs_; }
  // Tiles, of all clips, before a part.
  int64_t Before(int64_t part) const {
    return Item(part) * clip_tiles_ + PartOfItem(part) * part_tiles_;
  }
  // Tiles of the parts [begin, end).
  int64_t Between(int64_t begin, int64_t end) const {
    return begin < end ? Before(end - 1) + Tiles(end - 1) - Before(begin) : 0;
  }

 private:
  static constexpr int64_t kPartTiles = 32;  // at most

  int64_t outs_, clip_tiles_, clip_parts_;
  int64_t part_tiles_ = 0, parts_ = 0, wave_parts_ = 0;
};

constexpr int64_t kLoadTiles = 4;  // tiles loaded at a time

// Floats of the rows that LoadTiles holds.
inline int64_t LoadFloats(const Form& form, int64_t channels) {
  return (kLoadTiles * form.outs + form.taps - 1) * TileStride(channels);
}

// V of `tiles` tiles of a clip whose first reads from row0. `to` says where it goes; `rows` holds
// LoadFloats.
inline void LoadTiles(const Source& source, const Form& form, int64_t item, int64_t row0,
                      int64_t tiles, DataArgs to, float* rows) {
  const int64_t stride = TileStride(source.channels);
  const int64_t halo = form.taps - 1;
  to.points = form.points;
  to.rows = rows;
  to.row_stride = stride;
  to.tile_step = form.outs * stride;
  to.width = source.channels;
  for (int64_t t = 0; t < tiles; t += kLoadTiles) {
    to.tiles = std::min(kLoadTiles, tiles - t);
    int64_t kept = 0;
    if (t > 0) {  // the halo is the end of the rows before
      kept = halo;
      const float* end = rows + kLoadTiles * form.outs * stride;
      std::copy(end, end + halo * stride, rows);
    }
    Fill_Run(source.Rows(item, row0 + t * form.outs + kept, to.tiles * form.outs + halo - kept, 0,
                         source.channels, rows + kept * stride, stride));
    DataTransform_Run(to);
    to.v += to.tiles * to.tile_stride;
  }
}

}  // namespace n2m::conv1d_block
