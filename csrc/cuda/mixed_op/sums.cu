// Sums of the gradients over pixels, and what chunks add up to.
#include "cuda/mixed_op/pools.h"

namespace fastdarts::cuda {

namespace {

// ---- Σ g and Σ g (z − mean) of a chunk ----------------------------------------------------------------------------

constexpr int kPassRows = 7;  // whose sums a thread keeps in registers; an edge with more has several passes
constexpr int kPasses = 32;   // in one launch

struct SumRow {
  const void* map;  // its raw output, or the state of a skip connection; null for what the kernel computes
  int row, plane, seed;
  bool plain, drops;
};

// A pass reads the gradient of an edge once and does up to kPassRows of its rows. Passes are blocks of the grid: the
// sums of all rows of all edges do not fit into registers, and what a pool costs a pass again is read out of L2.
struct Pass {
  const void* gradient;
  int count, planes;  // planes: of its pools and of every row that draws
  bool pools;
  SumRow rows[kPassRows];
};

struct SumsArguments {
  State state;
  Strips strips;
  const float* mean;
  const int64_t* seeds;
  float* partial;
  Pass passes[kPasses];
};

template <typename T, bool vector>
__global__ void __launch_bounds__(kStripThreads, vector ? 5 - kFewerBlocks : 4)
    gradient_sums_kernel(const __grid_constant__ SumsArguments a) {
  const Pass& pass = a.passes[blockIdx.z];
  const int quads = a.strips.quads, channels = a.strips.channels;
  const int first = 4 * static_cast<int>(blockIdx.y) * quads;
  Four* const means = static_cast<Four*>(dynamic_shared());
  Four* const sums = means + kPassRows * quads;
  const Planes planes(sums);  // where the sums come to lie in the end
  for (int i = threadIdx.x; i < pass.count * quads; i += kStripThreads) {
    const SumRow& row = pass.rows[i / quads];
    const int c = first + 4 * (i % quads);
    const Four mean = load4(a.mean + int64_t{row.row} * channels + c, row.plain ? 0 : min(channels - c, 4), false);
    means[i] = mean;
  }
  __syncthreads();
  const Lane own = lane_of_thread(a.strips);
  Four total = splat(0.0f), products[kPassRows];
#pragma unroll
  for (int i = 0; i < kPassRows; ++i) products[i] = splat(0.0f);
  for_units(a.strips, own, [&](const Unit& unit) {
    const int64_t place = unit.place(a.strips, own.c);
    if (pass.pools) pool_into<T, vector>(planes, a.state, a.strips, unit, own);
    const int pitch = a.strips.width * channels, count = vector ? 4 : own.count;
#pragma unroll 1
    for (int k = 0; pass.planes > kNoisePlane && k < pass.count; ++k) {
      const SumRow& row = pass.rows[k];
      if (row.map || row.plane < kNoisePlane) continue;
      const T* const dropped = row.drops ? static_cast<const T*>(a.state.x) : nullptr;
      draw_into<vector>(planes, row.plane, a.seeds + row.seed, dropped, place, pitch, unit.rows,
                        vector ? 4 : own.count);
    }
    const T* gradient = static_cast<const T*>(pass.gradient) + place;
    Four g[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      g[r] = load4(gradient, r < unit.rows ? count : 0, vector);
      gradient += pitch;
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += g[r][i];
    }
#pragma unroll
    for (int k = 0; k < kPassRows; ++k) {
      if (k >= pass.count) break;
      const SumRow& row = pass.rows[k];
      Four z[kRows];
      if (row.map) {
        const T* map = static_cast<const T*>(row.map) + place;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          z[r] = load4(map, r < unit.rows ? count : 0, vector);
          map += pitch;
        }
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) z[r] = r < unit.rows ? planes.at(row.plane, r) : splat(0.0f);
      }
      const Four mean = means[k * quads + own.quad];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) products[k][i] = fmaf(g[r][i], z[r][i] - mean[i], products[k][i]);
      }
    }
  });
  // no barrier: a thread's sums come to lie where only its own planes were
  sums[threadIdx.x] = total;
#pragma unroll
  for (int k = 0; k < kPassRows; ++k) {
    if (k < pass.count) sums[(1 + k) * kStripThreads + threadIdx.x] = products[k];
  }
  __syncthreads();
  // One thread adds what all threads have of a channel, in the order of their lanes.
  for (int i = threadIdx.x; i < (1 + pass.count) * 4 * quads; i += kStripThreads) {
    const int k = i / (4 * quads), channel = i - k * 4 * quads, c = first + channel;
    if (c >= channels) continue;
    const float* values = sums[k * kStripThreads].v + channel;
    float sum = 0.0f;
    for (int lane = 0; lane < a.strips.lanes; ++lane) sum += values[4 * lane * quads];
    for (int row = k == 0 ? 0 : k - 1; row < (k == 0 ? pass.count : k); ++row) {
      const int64_t at = (int64_t{pass.rows[row].row} * gridDim.x + blockIdx.x) * kSums + (k > 0);
      a.partial[at * channels + c] = sum;
    }
  }
}

// ---- What chunks add up to ----------------------------------------------------------------------------------------

constexpr int kColumn = 16;                   // channels of a block
constexpr int kSlices = 32;                   // threads of a channel
constexpr int kSlice = kMaxChunks / kSlices;  // chunks of a thread, at most
constexpr int kTotalThreads = kColumn * kSlices;

struct Rows {
  int v[kMaxTensors];  // ~row: nothing normalises it
};

struct TotalsArguments {
  Affine affine;
  const float* partial;
  float *dgain, *doffset;
  int chunks, channels;
  Rows rows;
};

// The sum over the slices of a channel, in a fixed tree, for all of its threads.
__device__ inline float over_slices(float value, float* shared) {
  __syncthreads();
  shared[threadIdx.x] = value;
  for (unsigned half = kTotalThreads / 2; half >= kColumn; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  __syncthreads();
  return shared[threadIdx.x % kColumn];
}

__global__ void __launch_bounds__(kTotalThreads) gradient_totals_kernel(const __grid_constant__ TotalsArguments a) {
  __shared__ float shared[kTotalThreads];
  const int given = a.rows.v[blockIdx.x], row = given < 0 ? ~given : given;
  const int c = blockIdx.y * kColumn + threadIdx.x % kColumn, slice = threadIdx.x / kColumn;
  const int64_t at = int64_t{row} * a.channels + c, step = a.channels;
  const float* partial = a.partial + int64_t{row} * a.chunks * kSums * step + min(c, a.channels - 1);
  float first = 0.0f, second = 0.0f;
#pragma unroll
  for (int i = 0; i < kSlice; ++i) {
    const int chunk = i * kSlices + slice;
    if (chunk < a.chunks) {
      first += partial[int64_t{chunk} * kSums * step];
      second += partial[(int64_t{chunk} * kSums + 1) * step];
    }
  }
  first = over_slices(first, shared);
  second = over_slices(second, shared);
  if (slice == 0 && c < a.channels) {
    a.doffset[at] = first;
    a.dgain[at] = given < 0 ? second : second * inverse(a.affine, at);
  }
}

// Runs a kernel of totals for as many rows at a time as its arguments take.
template <auto kernel, typename Arguments>
cudaError_t for_rows(const Call& call, Arguments& arguments, const int* rows, int count, int chunks) {
  if (chunks > kMaxChunks) return cudaErrorInvalidValue;
  arguments.chunks = chunks;
  arguments.channels = call.sizes.outputs;
  for (int first = 0; first < count; first += kMaxTensors) {
    const int here = std::min(count - first, kMaxTensors);
    std::copy(rows + first, rows + first + here, arguments.rows.v);
    const dim3 grid(here, static_cast<unsigned>(quotient(call.sizes.outputs, kColumn)));
    if (const cudaError_t error = launch<kernel>(grid, kTotalThreads, 0, call.stream, arguments)) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t gradient_sums(const Call& call, const Affine& affine, const Operands& operands, const Final* finals,
                          int count, const Tiling& tiling, float* partial) {
  if (!fits_strips(call.sizes)) return cudaErrorInvalidValue;
  std::vector<Pass> passes;
  int edge = -1;
  for (const Final* final = finals; final != finals + count; ++final) {
    if (passes.empty() || final->edge != edge || passes.back().count == kPassRows) {
      passes.push_back({operands.gradients[final->edge], 0, kNoisePlane, false, {}});
    }
    edge = final->edge;
    Pass& pass = passes.back();
    const bool drops = final->kind == FinalKind::kDropped;
    const int plane = drops || final->kind == FinalKind::kNoise ? pass.planes++ : plane_of(final->kind);
    pass.rows[pass.count++] = {map_of(operands, *final), final->row, plane, final->source,
                               is_plain(final->kind),    drops};
    pass.pools |= is_pool(final->kind);
  }
  SumsArguments arguments = {};
  arguments.state = state_of(call, operands);
  arguments.strips = strips_in_chunks(call.sizes, tiling.chunks, std::min<int64_t>(passes.size(), kPasses));
  arguments.mean = affine.mean;
  arguments.seeds = operands.seeds;
  arguments.partial = partial;
  int planes = 0;
  for (const Pass& pass : passes) planes = std::max(planes, pass.planes);
  const size_t fours = std::max<size_t>((1 + kPassRows) * kStripThreads, plane_fours(planes));
  const size_t shared = (kPassRows * arguments.strips.quads + fours) * sizeof(Four);
  for (size_t first = 0; first < passes.size(); first += kPasses) {
    const size_t here = std::min<size_t>(passes.size() - first, kPasses);
    std::copy_n(passes.begin() + first, here, arguments.passes);
    const dim3 grid(tiling.chunks, channel_blocks(arguments.strips), static_cast<unsigned>(here));
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      return launch<gradient_sums_kernel<decltype(type), decltype(vector)::value>>(grid, kStripThreads, shared,
                                                                                   call.stream, arguments);
    });
    if (error) return error;
  }
  return cudaSuccess;
}

cudaError_t gradient_totals(const Call& call, const Affine& affine, const int* rows, int count, int chunks,
                            const float* partial, float* dgain, float* doffset) {
  TotalsArguments arguments = {};
  arguments.affine = affine;
  arguments.partial = partial;
  arguments.dgain = dgain, arguments.doffset = doffset;
  return for_rows<gradient_totals_kernel>(call, arguments, rows, count, chunks);
}

}  // namespace fastdarts::cuda
