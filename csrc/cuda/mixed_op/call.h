// What the launchers of mixed_op share: the sizes of a call, its stages and final rows, and the tiles of a map. The
// maths stands in kernels/mixed_op/contract.py. All maps are channels-last, [N, H, W, C].
//
// Tables [R, C'] (gain, offset, mean, var, dgain, doffset) are float. Sums over pixels are partial results, one per
// chunk of tiles, that another kernel or the last block adds in a fixed order: no sum is atomic, the bits are always
// the same.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace fastdarts::cuda {

enum class Type : int { kFloat32, kFloat16, kBFloat16 };

struct Sizes {
  int images, height, width, channels;  // of the state, [N, H, W, C]
  int out_height, out_width, outputs;   // of what enters the nodes, [N, H', W', C']
  int stride;
};

// The normalisation of all rows. z is normalised to (z − mean) · gain / √(var · correction + eps) + offset.
struct Affine {
  const float *gain, *offset, *mean, *var;  // offset may be null
  float eps;
  float correction;  // (M − 1)/M where var is unbiased over M values; 1 for running statistics
};

// A first or second half of a convolution. It reads ReLU(x) of the state or, in a second half, ReLU of the normalised
// middle; then come depthwise k×k (none if kernel is 1) and 1×1.
struct Stage {
  int kernel, dilation, shift;  // shift 1: windows begin one pixel down and right (the odd half of factorized_reduce)
  int depthwise, pointwise;     // places in the list of weights; depthwise is −1 without one
  int raw, row;                 // the raw output's place, its row of the tables
  int edge;                     // the place of dL/d(normalised output) in the list of gradients
  int first, count;             // its part of the output channels
  int reads;                    // the raw middle that it reads, −1 for the state
  int middle() const { return row - 1; }  // the row of that middle
};

enum class FinalKind : int { kConv, kSkip, kMax, kAvg, kNoise, kDropped };

// Nothing normalises them.
inline bool is_plain(FinalKind kind) {
  return kind == FinalKind::kNoise || kind == FinalKind::kSkip || kind == FinalKind::kDropped;
}

// A row whose normalised values are added to the output of its edge.
struct Final {
  FinalKind kind;
  int row, source, edge;  // source: the place of its raw output, or of its seed
};

// Tiles of 8·across × 4·down pixels of `images` images: a warp has 8 × 4 pixels of it, a thread four rows and four
// channels. With dilation 2 the rows of a thread are two apart.
struct Tiling {
  int across, down, images;   // warps of a block
  int columns, rows, groups;  // tiles of a map
  int chunks, tiles_a_chunk;

  __host__ __device__ int warps() const { return across * down * images; }
  __host__ __device__ int64_t tiles() const { return int64_t{columns} * rows * groups; }
};

constexpr int kMaxChunks = 512;                     // of moments and sums
constexpr int kMaxWeightChunks = 128;               // of weight gradients, whose parts are as large as the weights
constexpr int64_t kPartBytes = int64_t{128} << 20;  // of these parts, unless one chunk takes more
#ifndef FASTDARTS_SMALL_DEVICE
constexpr int kMaxStages = 32;           // in one launch; more are several launches
constexpr int kMaxTensors = 64;          // the same of other rows
constexpr int kManyTiles = 128;          // that fill a device
constexpr int kTileChunks = 1024;        // at most, of tiles
constexpr int kFewBlocks = 528;          // four a multiprocessor
constexpr int kManyBlocks = 4096;        // of a map
constexpr size_t kHeldBytes = 80 << 10;  // of shared memory of a block: two are on a multiprocessor
#else  // as if the device were small: then the maps of tests are large, and have what large maps have
constexpr int kMaxStages = 5, kMaxTensors = 9, kManyTiles = 8, kTileChunks = 3, kFewBlocks = 12, kManyBlocks = 6;
constexpr size_t kHeldBytes = 20 << 10;
#endif

// Tiles of a map of this size, in as many chunks as there are tiles up to `most`. Small maps share a tile, unless there
// are few of them: a GPU has some hundred multiprocessors. Windows of stride 2 are four times as large as their tile.
inline Tiling tiling_of(int images, int height, int width, int stride, int most) {
  Tiling tiling = {};
  const bool narrow = width <= 8;
  tiling.across = narrow ? 1 : 2;
  tiling.down = narrow || stride == 2 ? 2 : 4;
  tiling.columns = (width + 8 * tiling.across - 1) / (8 * tiling.across);
  tiling.rows = (height + 4 * tiling.down - 1) / (4 * tiling.down);
  tiling.images = narrow ? (stride == 2 ? 2 : 4) : 1;
  const int64_t tiles = int64_t{tiling.columns} * tiling.rows * images;
  while (tiling.images > 1 && tiles < kManyTiles * tiling.images) tiling.images /= 2;
  tiling.groups = (images + tiling.images - 1) / tiling.images;
  most = std::min(most, kTileChunks);
  tiling.tiles_a_chunk = static_cast<int>((tiling.tiles() + most - 1) / most);
  tiling.chunks = static_cast<int>((tiling.tiles() + tiling.tiles_a_chunk - 1) / tiling.tiles_a_chunk);
  return tiling;
}

// Chunks of a launch of so many stages: enough to fill a device with blocks of so many warps, or chunks of eight tiles
// where these are more. What a block does once is then little.
inline int chunks_of(int64_t tiles, int64_t stages, int warps) {
  const int64_t enough = std::max(8 * kFewBlocks / (std::max<int64_t>(stages, 1) * warps), tiles / 8);
  return static_cast<int>(std::clamp<int64_t>(enough, 1, kMaxChunks));
}

constexpr int kTaps = 49;

// Bytes of the parts of one chunk: taps and products of so many stages.
inline int64_t part_bytes(int64_t stages, const Sizes& sizes) {
  return stages * sizes.channels * (kTaps + sizes.outputs) * int64_t{sizeof(float)};
}

// Chunks at most of the weight gradients of so many stages. Where parts are large, blocks of channels are many, and a
// few chunks fill a device.
inline int weight_chunks(int64_t stages, const Sizes& sizes) {
  const int64_t enough = kPartBytes / std::max<int64_t>(part_bytes(stages, sizes), 1);
  return static_cast<int>(std::clamp<int64_t>(enough, 1, kMaxWeightChunks));
}

constexpr int kMoments = 4, kSums = 2;  // numbers of a channel in a chunk

struct Call {
  Sizes sizes;
  Type type;
  bool exact;   // products of float are not rounded to TF32
  bool vector;  // all maps and weights begin at multiples of four elements, C and C' are multiples of four
  cudaStream_t stream;

  int64_t pixels() const { return int64_t{sizes.images} * sizes.out_height * sizes.out_width; }  // of a node
};

// Kinks that are kept: what ReLUs and the max pool decided in another call. Stages then read maps that were rectified
// so before, and no ReLU of their own. Middles are those of the second halves, in their order.
struct Kept {
  const uint8_t *state = nullptr, *places = nullptr;  // bits of the state, places of maxima
  std::vector<const uint8_t*> middles;
  void* rectified_state = nullptr;
  std::vector<void*> rectified_middles;
  bool any = false;

  float floor() const { return any ? -std::numeric_limits<float>::infinity() : 0.0f; }  // what is below gives 0
};

// Pointers to the maps and weights of a call, in the places that Stage and Final name.
struct Operands {
  const void* x;
  std::vector<const void*> weights;
  std::vector<void*> raw;
  std::vector<const void*> gradients;  // backward: of the edges' outputs, then of the normalised middles
  const int64_t* seeds;                // behind that of a dropped skip its limit
  Kept kept;

  // What a stage reads; `i` is its place among the second halves if it is one.
  const void* read_by(const Stage& stage, int i) const {
    if (stage.reads < 0) return kept.any ? kept.rectified_state : x;
    return kept.any ? kept.rectified_middles[i] : raw[stage.reads];
  }
};

// Where the statistics of rows go. Each chunk writes its moments; the last of a row merges all of them.
struct Statistics {
  float* partial;      // [R, chunks, kMoments, C']: about, shift, Σ (z − mean)², count; mean = about + shift
  int chunks;          // that there is room for
  float *mean, *var;   // [R, C'], var unbiased
  unsigned* counters;  // [R, C'], all 0 before
};

// ---- stages.cu ----------------------------------------------------------------------------------------------------

// Raw outputs of these stages, and their statistics unless null.
cudaError_t run_stages(const Call&, const Affine&, const Operands&, const Stage* stages, int count, const Tiling&,
                       const Statistics*);

// ---- kinks.cu -----------------------------------------------------------------------------------------------------

// The bits of a ReLU, one for each channel: of the state, or of the normalised middle of a row if `row` is not −1.
cudaError_t note_bits(const Call&, const Affine&, const void* map, int row, uint8_t* bits);

// The same map, normalised if `row` is not −1, where its bit is set, 0 elsewhere.
cudaError_t rectify(const Call&, const Affine&, const void* map, int row, const uint8_t* bits, void* to);

// Where the maximum of each 3×3 window of the state is, 0 to 8, [P, C].
cudaError_t note_places(const Call&, const void* x, uint8_t* places);

// ---- mix.cu -------------------------------------------------------------------------------------------------------

// Statistics of both pools, of the rows of `finals` that are kMax or kAvg.
cudaError_t pool_moments(const Call&, const Operands&, const Final* finals, int count, const Tiling&,
                         const Statistics&);

// out_e = base_e + Σ over its finals of (gain ẑ + offset), for all edges. `finals` are sorted by edge. base has maps
// of the first edges, the others have none. Rows that nothing normalises get mean 0 and var 1.
cudaError_t mix(const Call&, const Affine&, const Operands&, const Final* finals, int count,
                const std::vector<const void*>& base, const std::vector<void*>& out, float* mean, float* var);

// partial [R, chunks, kSums, C']: Σ g and Σ g (z − mean) of every final row.
cudaError_t gradient_sums(const Call&, const Affine&, const Operands&, const Final* finals, int count, const Tiling&,
                          float* partial);

// doffset = Σ g and dgain = Σ g ẑ of these rows from partial [R, chunks, kSums, C']; ~row: nothing normalises it.
cudaError_t gradient_totals(const Call&, const Affine&, const int* rows, int count, int chunks, const float* partial,
                            float* dgain, float* doffset);

// What the pools hand on, over all edges: dL/d(maximum), dL/d(every pixel of an average's window), [P, C] float, and
// which of the nine pixels the maximum is, int8. values: M.
cudaError_t pool_gradients(const Call&, const Affine&, const Operands&, const Final* finals, int count,
                           const float* dgain, const float* doffset, float values, bool training, float* dmax,
                           float* davg, int8_t* which);

// ---- stages_backward.cu -------------------------------------------------------------------------------------------

// dL/dz = gain ρ (g − doffset/M − ẑ dgain/M) (gain ρ g by running statistics), and through the 1×1: t [stages, P, C],
// dL/d(depthwise output) in the type of x. Unless null: taps [stages, chunks, kTaps, C] and products
// [stages, chunks, C', C], float, parts of the weight gradients.
cudaError_t stage_gradients(const Call&, const Affine&, const Operands&, const Stage* stages, int count, const Tiling&,
                            const float* dgain, const float* doffset, float values, bool training, void* t, float* taps,
                            float* products);

// ---- weight_totals.cu ---------------------------------------------------------------------------------------------

// The weight gradients: parts added in the order of the chunks.
cudaError_t weight_totals(const Call&, const Stage* stages, int count, int chunks, const float* taps,
                          const float* products, const std::vector<void*>& dweights);

// ---- middle_gradients.cu ------------------------------------------------------------------------------------------

// dL/d(normalised middle) of every second half, through its depthwise convolution and its ReLU, into `middle`, one map
// for each; partial [R, chunks, kSums, C']: its sums Σ g and Σ g (z − mean), in the rows of the middles.
cudaError_t middle_gradients(const Call&, const Affine&, const Operands&, const Stage* seconds, int count,
                             const Tiling&, const void* t, const std::vector<void*>& middle, float* partial);

// ---- state_gradient.cu --------------------------------------------------------------------------------------------

// dL/dx through all stages that read the state (t is theirs), skip connections and pools (null without).
cudaError_t state_gradient(const Call&, const Affine&, const Operands&, const Stage* stages, int count,
                           const Final* finals, int finals_count, const void* t, const float* dmax, const float* davg,
                           const int8_t* which, void* dx);

}  // namespace fastdarts::cuda
