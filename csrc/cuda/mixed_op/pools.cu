// Moments and gradients of the 3×3 pools of the state.
#include "cuda/mixed_op/pools.h"
#include "cuda/mixed_op/statistics.h"

namespace fastdarts::cuda {

namespace {

// ---- Moments ------------------------------------------------------------------------------------------------------

constexpr int kMomentFours = 6;

// Σ and Σ² of one pool less `about`, a value of its own. So of n values no more than n units of the last place of the
// second moment are lost, whatever their mean.
struct Moments {
  Four* shared;  // about, which would take registers, and at the end both sums
  Four sum = splat(0.0f), square = splat(0.0f);

  __device__ explicit Moments(Four* all) : shared(all + threadIdx.x) { *shared = splat(0.0f); }

  __device__ void add(const Four& value, bool first) {
    if (first) *shared = value;
    const Four about = *shared;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float apart = value[i] - about[i];
      sum[i] += apart;
      square[i] = fmaf(apart, apart, square[i]);
    }
  }

  __device__ void finish() const {
    shared[kStripThreads] = sum;
    shared[2 * kStripThreads] = square;
  }
};

struct MomentsArguments {
  State state;
  Strips strips;
  Statistics statistics;
  int rows[2][kMaxTensors], counts[2];  // of maxima, of averages
};

// Moments of all threads with one channel: about, shift, Σ (z − mean)², count. Their values are `between` threads
// apart.
struct Merged {
  float v[kMoments];
};

__device__ Merged merge_moments(const float* values, const int* counts, int lanes, int between) {
  const float *sums = values + 4 * kStripThreads, *squares = values + 8 * kStripThreads;
  const float about = values[0];
  float total = 0.0f, shift = 0.0f, second = 0.0f;
  for (int lane = 0; lane < lanes; ++lane) {
    const int at = lane * between, n = counts[at];
    if (n > 0) shift += fmaf(static_cast<float>(n), values[4 * at] - about, sums[4 * at]);
    total += static_cast<float>(n);
  }
  if (total == 0) return {};
  shift /= total;
  for (int lane = 0; lane < lanes; ++lane) {
    const int at = lane * between, n = counts[at];
    const float apart = values[4 * at] - about - shift;  // Σ (d + apart)² = Σ d² + apart (2 Σ d + n apart)
    if (n > 0) second += fmaf(apart, fmaf(static_cast<float>(n), apart, 2.0f * sums[4 * at]), squares[4 * at]);
  }
  return {{about, shift, second < 0 ? 0.0f : second, total}};  // NaN stays NaN
}

template <typename T, bool vector>
__global__ void __launch_bounds__(kStripThreads, vector ? 6 - kFewerBlocks : 5 - kFewerBlocks)
    pool_moments_kernel(const __grid_constant__ MomentsArguments a) {
  __shared__ Four all[kMomentFours * kStripThreads];
  __shared__ int counts[kStripThreads];
  const Lane own = lane_of_thread(a.strips);
  Moments most(all), average(all + 3 * kStripThreads);
  int count = 0;
  for_units(a.strips, own, [&](const Unit& unit) {
    const Column<T, vector> column(a.state, a.strips, unit, own);
    pool<false>(a.state, column, unit.rows, [&](int r, const Three<false>& window, float share) {
      int place[4];
      const Four best = a.state.places ? kept_maxima<T>(a.state, a.strips, unit, own, r, place) : window.best;
      most.add(best, count == 0);
      average.add(average_of(window, share), count == 0);
      ++count;
    });
  });
  most.finish();
  average.finish();
  counts[threadIdx.x] = count;
  __syncthreads();
  const int channels = 4 * a.strips.quads, first = 4 * static_cast<int>(blockIdx.y) * a.strips.quads;
  for (int i = threadIdx.x; i < 2 * channels; i += kStripThreads) {
    const int kind = i >= channels, channel = i - kind * channels;
    if (first + channel >= a.strips.channels) continue;
    const Merged merged =
        merge_moments(all[3 * kind * kStripThreads].v + channel, counts + channel / 4, a.strips.lanes, a.strips.quads);
    if (a.counts[kind] == 0) continue;
    const int64_t at = int64_t{a.rows[kind][0]} * a.statistics.chunks + blockIdx.x;
#pragma unroll
    for (int k = 0; k < kMoments; ++k) {
      a.statistics.partial[(at * kMoments + k) * a.strips.channels + first + channel] = merged.v[k];
    }
  }
  for (int kind = 0; kind < 2; ++kind) {
    if (a.counts[kind] == 0) continue;
    finish_row(a.statistics, a.rows[kind], a.counts[kind], first, min(channels, a.strips.channels - first), gridDim.x,
               a.strips.channels, all[0].v);
  }
}

// ---- Gradients ----------------------------------------------------------------------------------------------------

constexpr int kPooledEdges = 32;  // in one launch; more are several launches
constexpr int kSlopeFours = 4;

struct PooledEdge {
  const void* gradient;
  int rows[2];  // of its maximum, of its average; −1 without
};

struct GradientArguments {
  State state;
  Strips strips;
  Affine affine;
  const float *dgain, *doffset;
  float* dmax;
  float* davg;
  int8_t* which;
  float share;  // 1/M where M values have been normalised by their own statistics, otherwise 0
  bool later;   // adds to the gradients of the launches before
  int count;
  PooledEdge edges[kPooledEdges];
};

// dL/dz = scale (g − level − (z − mean) slope) of four channels of a row.
struct Slope {
  Four mean, scale, level, slope;

  __device__ Slope(const GradientArguments& a, int row, int c) {
    mean = scale = level = slope = splat(0.0f);
    if (row < 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (c + i < a.strips.channels) {
        const int64_t at = int64_t{row} * a.strips.channels + c + i;
        const float one = inverse(a.affine, at);
        mean[i] = a.affine.mean[at];
        scale[i] = a.affine.gain[at] * one;
        if (a.share > 0) level[i] = a.doffset[at] * a.share, slope[i] = a.dgain[at] * one * a.share;
      }
    }
  }

  __device__ void put(Four* table) const { table[0] = mean, table[1] = scale, table[2] = level, table[3] = slope; }
};

__device__ inline void add_raw_gradient(Four& sum, const Four& g, const Four& z, const Four* slope) {
  const Four mean = slope[0], scale = slope[1], level = slope[2], by = slope[3];
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = fmaf(scale[i], g[i] - level[i] - (z[i] - mean[i]) * by[i], sum[i]);
}

template <bool vector>
__device__ void store_places(int8_t* to, const int (&place)[4], int count) {
  if constexpr (vector) {
    *reinterpret_cast<int*>(to) = place[0] | place[1] << 8 | place[2] << 16 | place[3] << 24;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) to[i] = static_cast<int8_t>(place[i]);
    }
  }
}

template <typename T, bool vector>
__global__ void __launch_bounds__(kStripThreads, vector ? 7 : 5)
    pool_gradients_kernel(const __grid_constant__ GradientArguments a) {
  Four* table = static_cast<Four*>(dynamic_shared());
  const Planes planes(table + size_t{2} * kSlopeFours * a.count * a.strips.quads);
  const Lane own = lane_of_thread(a.strips);
  const int slopes = 2 * a.count * a.strips.quads;
  for (int i = threadIdx.x; i < slopes; i += kStripThreads) {
    const int entry = i / a.strips.quads, quad = i - entry * a.strips.quads;
    const int c = 4 * (static_cast<int>(blockIdx.y) * a.strips.quads + quad);
    Slope(a, a.edges[entry / 2].rows[entry % 2], c).put(table + i * kSlopeFours);
  }
  __syncthreads();
  for_units(a.strips, own, [&](const Unit& unit) {
    const Column<T, vector> column(a.state, a.strips, unit, own);
    const int64_t place = unit.place(a.strips, own.c);
    const int pitch = a.strips.width * a.strips.channels;
    pool<true>(a.state, column, unit.rows, [&](int r, const Three<true>& window, float share) {
      planes.at(kMaxPlane, r) = window.best;
      planes.at(kAvgPlane, r) = average_of(window, share);
      if (!a.later) store_places<vector>(a.which + place + int64_t{r} * pitch, window.place, own.count);
    });
    if (a.state.places) {
#pragma unroll 1
      for (int r = 0; r < unit.rows; ++r) {
        int kept[4];
        planes.at(kMaxPlane, r) = kept_maxima<T>(a.state, a.strips, unit, own, r, kept);
        if (!a.later) store_places<vector>(a.which + place + int64_t{r} * pitch, kept, own.count);
      }
    }
#pragma unroll 1
    for (int r = 0; r < unit.rows; ++r) {
      const int64_t at = place + int64_t{r} * pitch;
      const Four best = planes.at(kMaxPlane, r), mean = planes.at(kAvgPlane, r);
      Four dmax = splat(0.0f), davg = splat(0.0f);
      for (int e = 0; e < a.count; ++e) {
        const PooledEdge& edge = a.edges[e];
        const Four g = load4(static_cast<const T*>(edge.gradient) + at, own.count, vector);
        const Four* slope = table + (2 * e * a.strips.quads + own.quad) * kSlopeFours;
        if (edge.rows[0] >= 0) add_raw_gradient(dmax, g, best, slope);
        if (edge.rows[1] >= 0) add_raw_gradient(davg, g, mean, slope + a.strips.quads * kSlopeFours);
      }
      const float share = column.share_at((unit.y + r) * a.state.stride);
#pragma unroll
      for (int i = 0; i < 4; ++i) davg[i] *= share;
      if (a.later) {
        const Four before[2] = {load4(a.dmax + at, own.count, vector), load4(a.davg + at, own.count, vector)};
#pragma unroll
        for (int i = 0; i < 4; ++i) dmax[i] += before[0][i], davg[i] += before[1][i];
      }
      store4(a.dmax + at, dmax, own.count, vector);
      store4(a.davg + at, davg, own.count, vector);
    }
  });
}

}  // namespace

cudaError_t pool_moments(const Call& call, const Operands& operands, const Final* finals, int count,
                         const Tiling& tiling, const Statistics& statistics) {
  if (!fits_strips(call.sizes)) return cudaErrorInvalidValue;
  MomentsArguments arguments = {};
  arguments.state = state_of(call, operands);
  arguments.strips = strips_in_chunks(call.sizes, tiling.chunks, 1);
  arguments.statistics = statistics;
  const dim3 grid(tiling.chunks, channel_blocks(arguments.strips));
  const auto run = [&] {
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      return launch<pool_moments_kernel<decltype(type), decltype(vector)::value>>(grid, kStripThreads, 0, call.stream,
                                                                                  arguments);
    });
    arguments.counts[0] = arguments.counts[1] = 0;
    return error;
  };
  for (int i = 0; i < count; ++i) {
    if (!is_pool(finals[i].kind)) continue;
    const int kind = finals[i].kind == FinalKind::kAvg;
    if (arguments.counts[kind] == kMaxTensors) {
      if (const cudaError_t error = run()) return error;
    }
    arguments.rows[kind][arguments.counts[kind]++] = finals[i].row;
  }
  return arguments.counts[0] + arguments.counts[1] > 0 ? run() : cudaSuccess;
}

cudaError_t pool_gradients(const Call& call, const Affine& affine, const Operands& operands, const Final* finals,
                           int count, const float* dgain, const float* doffset, float values, bool training,
                           float* dmax, float* davg, int8_t* which) {
  if (!fits_strips(call.sizes)) return cudaErrorInvalidValue;
  GradientArguments arguments = {};
  arguments.state = state_of(call, operands);
  arguments.strips = strips_of_map(call.sizes);
  arguments.affine = affine;
  arguments.dgain = dgain, arguments.doffset = doffset;
  arguments.dmax = dmax, arguments.davg = davg, arguments.which = which;
  arguments.share = training ? 1.0f / values : 0.0f;
  const auto run = [&] {
    const Strips& strips = arguments.strips;
    const dim3 grid(strips.chunks(), channel_blocks(strips));
    const size_t shared = (plane_fours(2) + size_t{2} * kSlopeFours * arguments.count * strips.quads) * sizeof(Four);
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      return launch<pool_gradients_kernel<decltype(type), decltype(vector)::value>>(grid, kStripThreads, shared,
                                                                                    call.stream, arguments);
    });
    arguments.later = true;
    arguments.count = 0;
    return error;
  };
  int edge = -1;
  for (int i = 0; i < count; ++i) {
    if (!is_pool(finals[i].kind)) continue;
    const int kind = finals[i].kind == FinalKind::kAvg;
    PooledEdge* last = arguments.count ? &arguments.edges[arguments.count - 1] : nullptr;
    if (last == nullptr || finals[i].edge != edge || last->rows[kind] >= 0) {
      if (arguments.count == kPooledEdges) {
        if (const cudaError_t error = run()) return error;
      }
      last = &arguments.edges[arguments.count++];
      *last = {operands.gradients[finals[i].edge], {-1, -1}};
      edge = finals[i].edge;
    }
    last->rows[kind] = finals[i].row;
  }
  return arguments.count > 0 ? run() : cudaSuccess;
}

}  // namespace fastdarts::cuda
