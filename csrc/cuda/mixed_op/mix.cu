// What enters the nodes: the normalised, weighted values of all candidates of an edge, added up in registers.
#include "cuda/mixed_op/pools.h"

namespace fastdarts::cuda {

namespace {

struct MixRow {
  const void* map;  // its raw output, or the state of a skip connection; null for what the kernel computes
  int row, plane, seed;
  bool plain, drops;
};

struct MixEdge {
  const void* base;  // null without
  void* out;
  int first, end;  // its rows
};

struct MixArguments {
  State state;
  Strips strips;
  Affine affine;
  float *mean, *var;  // of rows that nothing normalises
  const int64_t* seeds;
  int count, edge_count;
  bool pools;
  int planes;
  MixRow rows[kMaxTensors];
  MixEdge edges[kMaxTensors];
};

// The statistics of channels c to c + 3 of a row that nothing normalises.
__device__ inline void set_plain(const MixArguments& a, int row, int c) {
  const int64_t at = int64_t{row} * a.strips.channels + c;
  for (int i = 0; i < min(a.strips.channels - c, 4); ++i) a.mean[at + i] = 0.0f, a.var[at + i] = 1.0f;
}

// Mean and scale of every row, then the summed offsets of every edge; of all channels of the block.
__device__ void load_tables(const MixArguments& a, Four* rows, Four* edges) {
  const int quads = a.strips.quads, channels = a.strips.channels, first = 4 * static_cast<int>(blockIdx.y) * quads;
  for (int i = threadIdx.x; i < a.count * quads; i += kStripThreads) {
    const int at = i / quads, c = first + 4 * (i - at * quads);
    const MixRow& row = a.rows[at];
    Normal normal = {splat(0.0f), splat(0.0f), splat(0.0f)};
    if (row.plain) {
      if (blockIdx.x == 0) set_plain(a, row.row, c);
      normal.scale = load4(a.affine.gain + int64_t{row.row} * channels + c, min(channels - c, 4), false);
    } else {
      normal = normal_of(a.affine, row.row, c, channels);
    }
    rows[2 * i] = normal.mean;
    rows[2 * i + 1] = normal.scale;
  }
  for (int i = threadIdx.x; i < a.edge_count * quads; i += kStripThreads) {
    const int at = i / quads, c = first + 4 * (i - at * quads);
    Four sum = splat(0.0f);
    if (a.affine.offset) {
      for (int k = a.edges[at].first; k < a.edges[at].end; ++k) {
        const Four offset = load4(a.affine.offset + int64_t{a.rows[k].row} * channels + c, min(channels - c, 4), false);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += offset[j];
      }
    }
    edges[i] = sum;
  }
}

__device__ inline void add_normalised(Four& sum, const Four& z, const Four& mean, const Four& scale) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = fmaf(z[i] - mean[i], scale[i], sum[i]);
}

template <typename T, bool vector>
__global__ void __launch_bounds__(kStripThreads, vector ? 7 : 6) mix_kernel(const __grid_constant__ MixArguments a) {
  Four* const rows = static_cast<Four*>(dynamic_shared());
  Four* const edges = rows + 2 * a.count * a.strips.quads;
  const Planes planes(edges + a.edge_count * a.strips.quads);
  const Lane own = lane_of_thread(a.strips);
  load_tables(a, rows, edges);
  __syncthreads();
  for_units(a.strips, own, [&](const Unit& unit) {
    if (a.pools) pool_into<T, vector>(planes, a.state, a.strips, unit, own);
    const int64_t place = unit.place(a.strips, own.c);
    const int pitch = a.strips.width * a.strips.channels, count = vector ? 4 : own.count;
    for (int e = 0; e < a.edge_count; ++e) {
      const MixEdge& edge = a.edges[e];
      Four sums[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = edges[e * a.strips.quads + own.quad];
      if (edge.base) {
        const T* base = static_cast<const T*>(edge.base) + place;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Four value = load4(base + int64_t{r} * pitch, r < unit.rows ? count : 0, vector);
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[r][i] += value[i];
        }
      }
      for (int k = edge.first; k < edge.end; ++k) {
        const MixRow& row = a.rows[k];
        const Four* table = rows + 2 * (k * a.strips.quads + own.quad);
        const Four mean = table[0], scale = table[1];
        if (row.map) {
          const T* map = static_cast<const T*>(row.map) + place;
          Four z[kRows];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            z[r] = load4(map + int64_t{r} * pitch, r < unit.rows ? count : 0, vector);
          }
#pragma unroll
          for (int r = 0; r < kRows; ++r) add_normalised(sums[r], z[r], mean, scale);
        } else {
          if (row.plane == kNoisePlane) {
            const T* const dropped = row.drops ? static_cast<const T*>(a.state.x) : nullptr;
            draw_into<vector>(planes, row.plane, a.seeds + row.seed, dropped, place, pitch, unit.rows, count);
          }
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            if (r < unit.rows) add_normalised(sums[r], planes.at(row.plane, r), mean, scale);
          }
        }
      }
      T* out = static_cast<T*>(edge.out) + place;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        store4(out + int64_t{r} * pitch, sums[r], r < unit.rows ? count : 0, vector);
      }
    }
  });
}

}  // namespace

cudaError_t mix(const Call& call, const Affine& affine, const Operands& operands, const Final* finals, int count,
                const std::vector<const void*>& base, const std::vector<void*>& out, float* mean, float* var) {
  if (!fits_strips(call.sizes)) return cudaErrorInvalidValue;
  MixArguments arguments = {};
  arguments.state = state_of(call, operands);
  arguments.strips = strips_of_map(call.sizes);
  arguments.affine = affine;
  arguments.mean = mean, arguments.var = var;
  arguments.seeds = operands.seeds;
  const auto run = [&] {
    const Strips& strips = arguments.strips;
    const dim3 grid(strips.chunks(), channel_blocks(strips));
    const size_t tables = size_t(2 * arguments.count + arguments.edge_count) * strips.quads;
    const size_t shared = (tables + plane_fours(arguments.planes)) * sizeof(Four);
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      return launch<mix_kernel<decltype(type), decltype(vector)::value>>(grid, kStripThreads, shared, call.stream,
                                                                         arguments);
    });
    arguments.count = arguments.edge_count = 0;
    arguments.pools = false;
    arguments.planes = 0;
    return error;
  };
  int next = 0;
  for (int e = 0; e < static_cast<int>(out.size()); ++e) {
    const void* before = e < static_cast<int>(base.size()) ? base[e] : nullptr;
    do {  // an edge with more rows than a launch takes goes on upon what it has
      if (arguments.edge_count == kMaxTensors || arguments.count == kMaxTensors) {
        if (const cudaError_t error = run()) return error;
      }
      const int first = arguments.count;
      for (; next < count && finals[next].edge == e && arguments.count < kMaxTensors; ++next) {
        const Final& final = finals[next];
        const void* const map = map_of(operands, final);
        const int plane = plane_of(final.kind);
        arguments.pools |= is_pool(final.kind);
        if (!map) arguments.planes = std::max(arguments.planes, plane < kNoisePlane ? kNoisePlane : plane + 1);
        arguments.rows[arguments.count++] = {
            map, final.row, plane, final.source, is_plain(final.kind), final.kind == FinalKind::kDropped};
      }
      arguments.edges[arguments.edge_count++] = {before, out[e], first, arguments.count};
      before = out[e];
    } while (next < count && finals[next].edge == e);
  }
  return arguments.edge_count > 0 ? run() : cudaSuccess;
}

}  // namespace fastdarts::cuda
