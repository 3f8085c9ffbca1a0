// The kinks of mixed_op: what its ReLUs and its max pool decide, noted in bits or read from them. The bits stand in
// kernels/mixed_op/contract.py.
#include "cuda/launch.h"
#include "cuda/mixed_op/strips.h"
#include "cuda/mixed_op/tile.h"

namespace fastdarts::cuda {

namespace {

constexpr int kThreads = 256;

struct BitArguments {
  const void* map;
  Affine affine;
  int row;  // −1: nothing normalises the map
  int channels;
  int64_t bytes;  // of all bits
  const uint8_t* kept;
  uint8_t* noted;  // one of both is null
  void* to;
};

// A thread has the eight channels of one byte.
template <typename T, bool vector>
__global__ __launch_bounds__(kThreads) void bits_kernel(const __grid_constant__ BitArguments a) {
  const int bytes = (a.channels + 7) / 8;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, pixel = i / bytes;
  if (i >= a.bytes) return;
  const int first = static_cast<int>(i - pixel * bytes) * 8;
  unsigned byte = a.kept ? a.kept[i] : 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int c = first + 4 * half, count = min(max(a.channels - c, 0), 4);
    Four value = load4(static_cast<const T*>(a.map) + pixel * a.channels + c, count, vector);
    if (a.row >= 0) value = normal_of(a.affine, a.row, c, a.channels)(value);
    if (a.kept) {
#pragma unroll
      for (int k = 0; k < 4; ++k) value[k] = byte >> (4 * half + k) & 1 ? value[k] : 0.0f;
      store4(static_cast<T*>(a.to) + pixel * a.channels + c, value, count, vector);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k < count && !(value[k] <= 0)) byte |= 1u << (4 * half + k);  // NaN passes
      }
    }
  }
  if (!a.kept) a.noted[i] = static_cast<uint8_t>(byte);
}

struct PlaceArguments {
  const void* x;
  Sizes sizes;
  int64_t values;
  uint8_t* places;
};

template <typename T>
__global__ __launch_bounds__(kThreads) void places_kernel(const __grid_constant__ PlaceArguments a) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.values) return;
  const Sizes& sizes = a.sizes;
  const int64_t pixel = i / sizes.channels, line = pixel / sizes.out_width, n = line / sizes.out_height;
  const int c = static_cast<int>(i - pixel * sizes.channels);
  const int y = static_cast<int>(line - n * sizes.out_height) * sizes.stride;
  const int x = static_cast<int>(pixel - line * sizes.out_width) * sizes.stride;
  const T* const image = static_cast<const T*>(a.x) + n * sizes.height * sizes.width * sizes.channels + c;
  float best = 0;
  int place = -1;
  for (int tap = 0; tap < 9; ++tap) {
    const int row = y + tap / 3 - 1, column = x + tap % 3 - 1;
    if (row < 0 || row >= sizes.height || column < 0 || column >= sizes.width) continue;
    const float value = to_float(image[(row * sizes.width + column) * sizes.channels]);
    if (place < 0 || value > best || value != value) best = value, place = tap;  // the first of equals, the last NaN
  }
  a.places[i] = static_cast<uint8_t>(place);
}

cudaError_t run_bits(const Call& call, const Affine& affine, const void* map, int row, const uint8_t* kept,
                     uint8_t* noted, void* to) {
  const Sizes& sizes = call.sizes;
  const int channels = row < 0 ? sizes.channels : sizes.outputs;
  const int64_t pixels = row < 0 ? int64_t{sizes.images} * sizes.height * sizes.width : call.pixels();
  const BitArguments arguments = {map, affine, row, channels, pixels * quotient(channels, 8), kept, noted, to};
  const dim3 grid(static_cast<unsigned>(quotient(arguments.bytes, kThreads)));
  return for_type(call, [&](auto type, auto vector) {
    return launch<bits_kernel<decltype(type), decltype(vector)::value>>(grid, kThreads, 0, call.stream, arguments);
  });
}

}  // namespace

cudaError_t note_bits(const Call& call, const Affine& affine, const void* map, int row, uint8_t* bits) {
  return run_bits(call, affine, map, row, nullptr, bits, nullptr);
}

cudaError_t rectify(const Call& call, const Affine& affine, const void* map, int row, const uint8_t* bits, void* to) {
  return run_bits(call, affine, map, row, bits, nullptr, to);
}

cudaError_t note_places(const Call& call, const void* x, uint8_t* places) {
  const PlaceArguments arguments = {x, call.sizes, call.pixels() * call.sizes.channels, places};
  const dim3 grid(static_cast<unsigned>(quotient(arguments.values, kThreads)));
  switch (call.type) {
    case Type::kFloat16:
      return launch<places_kernel<__half>>(grid, kThreads, 0, call.stream, arguments);
    case Type::kBFloat16:
      return launch<places_kernel<__nv_bfloat16>>(grid, kThreads, 0, call.stream, arguments);
    default:
      return launch<places_kernel<float>>(grid, kThreads, 0, call.stream, arguments);
  }
}

}  // namespace fastdarts::cuda
