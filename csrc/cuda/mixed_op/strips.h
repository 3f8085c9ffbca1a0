// How kernels without products share out a map. A unit is a strip of kRows pixels, one below the other, of four
// channels: neighbouring threads have neighbouring channels, then neighbouring columns. A block has a chunk of units
// and some channels. A thread keeps its channels and takes every `lanes`-th unit of the chunk.
#pragma once

#include "cuda/launch.h"
#include "cuda/mixed_op/call.h"
#include "cuda/mixed_op/tile.h"
#include "cuda/vectors.h"

namespace fastdarts::cuda {

constexpr int kStripThreads = 128;  // small blocks: small maps still fill the device
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kFewerBlocks = 1;  // of a multiprocessor: there nvcc takes some more registers
#else
constexpr int kFewerBlocks = 0;
#endif
constexpr int kMaxQuads = 12;  // fours of channels of a block; 9 (36 channels) are not divided

// ⌊n / divisor⌋ for n below 2³¹ (Granlund and Montgomery 1994, figure 4.1).
struct Divisor {
  uint32_t multiplier, shift;

  __host__ __device__ uint32_t quotient(uint32_t n) const {
    return (static_cast<uint32_t>(uint64_t{n} * multiplier >> 32) + n) >> shift;
  }
};

inline Divisor divisor_of(uint32_t divisor) {
  uint32_t shift = 0;
  while (uint64_t{1} << shift < divisor) ++shift;
  return {static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1), shift};
}

struct Strips {
  int height, width, channels;  // of what enters the nodes
  int quads;                    // fours of channels of a block
  int lanes;                    // units that a block works on at a time
  unsigned strips;              // of an image
  unsigned units, units_a_chunk;
  Divisor by_width, by_strips, by_quads;

  unsigned chunks() const { return static_cast<unsigned>(quotient(units, units_a_chunk)); }
};

// Units numbered below 2³¹.
inline bool fits_strips(const Sizes& sizes) {
  return int64_t{sizes.images} * quotient(sizes.out_height, kRows) * sizes.out_width < int64_t{1} << 31;
}

inline unsigned channel_blocks(const Strips& strips) {
  return static_cast<unsigned>(quotient(quotient(strips.channels, 4), strips.quads));
}

// Without chunks yet; no block takes more than `most` fours of channels.
inline Strips strips_of(const Sizes& sizes, int most = kMaxQuads) {
  Strips strips = {};
  strips.height = sizes.out_height;
  strips.width = sizes.out_width;
  strips.channels = sizes.outputs;
  const int64_t all = quotient(sizes.outputs, 4);
  strips.quads = static_cast<int>(quotient(all, quotient(all, most)));
  strips.lanes = kStripThreads / strips.quads;
  strips.strips = static_cast<unsigned>(quotient(sizes.out_height, kRows));
  strips.units = sizes.images * strips.strips * sizes.out_width;
  strips.by_width = divisor_of(sizes.out_width);
  strips.by_strips = divisor_of(strips.strips);
  strips.by_quads = divisor_of(strips.quads);
  return strips;
}

// For sums: so many chunks, and `others` such grids in one launch.
inline Strips strips_in_chunks(const Sizes& sizes, int chunks, int64_t others) {
  Strips strips = strips_of(sizes);
  // with few blocks, a block takes fewer channels
  while (strips.quads > 4 && chunks * others * channel_blocks(strips) < kFewBlocks) {
    strips = strips_of(sizes, (strips.quads + 1) / 2);
  }
  strips.units_a_chunk = static_cast<unsigned>(quotient(strips.units, chunks));
  return strips;
}

// For maps: enough blocks to fill a device, few enough that their tables cost little.
inline Strips strips_of_map(const Sizes& sizes) {
  Strips strips = strips_of(sizes);
  const int64_t chunks = std::max(int64_t{1}, int64_t{kManyBlocks} / channel_blocks(strips));
  const int64_t rounds = quotient(strips.units, chunks * strips.lanes);
  strips.units_a_chunk = static_cast<unsigned>(rounds * strips.lanes);
  return strips;
}

// What a thread keeps.
struct Lane {
  int lane, quad;
  int c, count;  // its first channel, how many of its four there are

  __device__ bool works(const Strips& strips) const { return lane < strips.lanes && count > 0; }
};

__device__ inline Lane lane_of_thread(const Strips& strips) {
  Lane own;
  own.lane = static_cast<int>(strips.by_quads.quotient(threadIdx.x));
  own.quad = static_cast<int>(threadIdx.x) - own.lane * strips.quads;
  own.c = 4 * (static_cast<int>(blockIdx.y) * strips.quads + own.quad);
  own.count = min(max(strips.channels - own.c, 0), 4);
  return own;
}

struct Unit {
  int image, y, x, rows;  // its first pixel; how many of its kRows pixels there are

  // Of its first pixel and channel c in a map [N, H', W', C'].
  __device__ int64_t place(const Strips& strips, int c) const {
    return (int64_t{image} * strips.height + y) * strips.width * strips.channels + x * strips.channels + c;
  }
};

__device__ inline Unit unit_at(const Strips& strips, unsigned i) {
  const unsigned strip = strips.by_width.quotient(i), image = strips.by_strips.quotient(strip);
  Unit unit;
  unit.image = static_cast<int>(image);
  unit.x = static_cast<int>(i - strip * strips.width);
  unit.y = static_cast<int>(strip - image * strips.strips) * kRows;
  unit.rows = min(strips.height - unit.y, kRows);
  return unit;
}

// visit(unit) for all units of this thread.
template <typename Visit>
__device__ void for_units(const Strips& strips, const Lane& own, const Visit& visit) {
  if (!own.works(strips)) return;
  const unsigned begin = blockIdx.x * strips.units_a_chunk;
  const unsigned end = min(begin + strips.units_a_chunk, strips.units);
  for (unsigned i = begin + own.lane; i < end; i += strips.lanes) visit(unit_at(strips, i));
}

// Kernels and their launchers are written for any type and for wide or narrow accesses.
template <typename Run>
cudaError_t for_type(const Call& call, const Run& run) {
  const auto with = [&](auto type) { return call.vector ? run(type, std::true_type()) : run(type, std::false_type()); };
  switch (call.type) {
    case Type::kFloat16:
      return with(__half());
    case Type::kBFloat16:
      return with(__nv_bfloat16());
    default:
      return with(float());
  }
}

}  // namespace fastdarts::cuda
