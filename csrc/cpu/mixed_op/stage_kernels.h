// The inner loops of a stage (ReLU, depthwise convolution, 1×1 convolution), each a function object that Isa::call
// compiles for its instruction set.
//
// Private buffers hold feature maps as [channel block][row][column][B], with a border of zeros. Channels are padded to
// whole blocks of B. A strip is [channel block][pixel][B]. One register holds the B channels of a pixel; a tile of
// Isa::kTile pixels (or pixels × blocks) is accumulated in registers.
//
// M is the type of a map, E that of an element of a private buffer: what is computed in, or a Pair (pairs.h).
#pragma once

#include "cpu/maps.h"
#include "cpu/mixed_op/kinks.h"
#include "cpu/mixed_op/pairs.h"

namespace fastdarts {

// NHWC pixels to channel blocks: max(0, x), or max(0, scale (x − mean) + offset). NaN passes, as in PyTorch. A ReLU
// that keeps its kinks lets the channels pass that it is told to, whatever their sign.
template <typename M, int B, bool affine, Decide decide, typename To = Wide<M>>
struct Load {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const M* source;  // [rows, columns, channels]
  int64_t rows, columns, channels;
  const T *scale, *mean, *offset;  // [blocks, B], zero in the padding
  To* target;                      // its first pixel
  int64_t pitch, plane;
  uint8_t* bits;  // [rows, columns, bytes], null if it decides by itself

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B, tail = channels % B, bytes = decide == Decide::kOwn ? 0 : kink_bytes(channels);
    for (int64_t y = 0; y < rows; ++y) {
      const M* p = source + y * columns * channels;
      To* o = target + y * pitch;
      uint8_t* k = bits + y * columns * bytes;
      for (int64_t x = 0; x < columns; ++x, p += channels, o += B, k += bytes) {
        for (int64_t b = 0; b < whole; ++b) {
          V v = Map<M, B>::read(p + b * B);
          if constexpr (affine) v = at(scale + b * B) * (v - at(mean + b * B)) + at(offset + b * B);
          Map<To, B>::write(o + b * plane, through_relu<decide, B, T>(v, k, b));
        }
        for (int64_t c = whole * B; c < channels; ++c) {
          T v = value(p[c]);
          if constexpr (affine) v = scale[c] * (v - mean[c]) + offset[c];
          o[whole * plane + c % B] = stored<To>(through_relu<decide>(v, k, c));
        }
        if (tail) {
          for (int64_t i = tail; i < B; ++i) o[whole * plane + i] = To{};
        }
      }
    }
  }
};

// acc[r·Q + q] += Σ weight[ky][kx] · source[(r·S + ky·D)·pitch + (q·S + kx·D)·B]. A pixel is loaded once for all the
// outputs of its row that it takes part in.
template <typename T, int B, int R, int Q, int K, int S, int D>
struct Window {
  FASTDARTS_VECTORS
  static constexpr int kWeights = K * K;                     // vectors
  static constexpr int kLines = R * Q * B * sizeof(T) / 64;  // of a tile

  static FASTDARTS_INLINE void run(const T* source, int64_t pitch, const T* weight, V (&acc)[R * Q],
                                   const T* ahead = nullptr) {
    for (int64_t ky = 0; ky < K; ++ky) {
      constexpr int kShare = (kLines + K - 1) / K;
      if (ahead) prefetch<kShare>(ahead + ky * kShare * 64 / sizeof(T));
      V w[K];
      unroll<K>(EACH(kx) { w[kx] = at(weight + (ky * K + kx) * B); });
      unroll<R>(EACH(r) {
        const T* p = source + (r * S + ky * D) * pitch;
        unroll<(Q - 1) * S + (K - 1) * D + 1>(EACH(j) {
          const V v = at(p + j * B);
          unroll<K>(EACH(kx) {
            constexpr int q = j - kx * D;
            if constexpr (q >= 0 && q % S == 0 && q / S < Q) acc[r * Q + q / S] += w[kx] * v;
          });
        });
      });
    }
  }
};

// The same of pairs. The last one of a row of weights is zero and the last weight: it reads no pixel that the window
// has not, where zero times infinity would not be zero.
template <int B, int R, int Q, int K, int S, int D>
struct Window<Pair, B, R, Q, K, S, D> {
  using V = typename Cell<Pair, B>::V;
  static constexpr int kPerRow = (K + 1) / 2, kWeights = K * kPerRow;
  static constexpr int kLines = R * Q * B * sizeof(BFloat16<true>) / 64;

  // The first pixel of the i-th pair of a row.
  static constexpr int tap(int i) { return 2 * i < K - 1 ? 2 * i : K - 2; }

  static FASTDARTS_INLINE void run(const Pair* source, int64_t pitch, const Pair* weight, V (&acc)[R * Q],
                                   const BFloat16<true>* ahead = nullptr) {
    for (int64_t ky = 0; ky < K; ++ky) {
      constexpr int kShare = (kLines + K - 1) / K;
      if (ahead) prefetch<kShare>(ahead + ky * kShare * 64 / sizeof(BFloat16<true>));
      typename Cell<Pair, B>::Words w[kPerRow];
      unroll<kPerRow>(EACH(i) { w[i] = Cell<Pair, B>::weights(weight + (ky * kPerRow + i) * B); });
      unroll<R>(EACH(r) {
        const Pair* p = source + (r * S + ky * D) * pitch;
        unroll<(Q - 1) * S + (K - 2) * D + 1>(EACH(j) {
          unroll<kPerRow>(EACH(i) {
            constexpr int q = j - tap(i) * D;
            if constexpr (q >= 0 && q % S == 0 && q / S < Q) {
              acc[r * Q + q / S] = Cell<Pair, B>::add(acc[r * Q + q / S], w[i], p + j * B);
            }
          });
        });
      });
    }
  }
};

// Depthwise convolution of a strip of whole rows (or of a part of one row). A tile that is wider than what is left of
// a row spills into pixels of the next row, which are written later. That is why R > 1 needs columns <= Q.
template <typename E, int B, int R, int Q, int K, int S, int D>
struct Depthwise {
  using Own = Window<E, B, R, Q, K, S, D>;
  using V = typename Own::V;
  const E* source;  // the first pixel's window in the first plane
  int64_t pitch, plane, blocks;
  const E* weight;  // [block][kWeights][B]
  int64_t rows, columns;
  Entry<E>* strip;
  int64_t strip_plane;
  const Entry<E>* ahead;  // what to prefetch meanwhile, as much as the strip

  FASTDARTS_INLINE void operator()() const {
    int64_t done = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q, done += R * Q * B) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          // Null stays null: a prefetch of page 0 waits for the page tables, and made the window up to 5 times slower.
          Own::run(source + b * plane + y * S * pitch + x * S * B, pitch, weight + b * Own::kWeights * B, acc,
                   ahead ? ahead + done : nullptr);
          Entry<E>* out = strip + b * strip_plane + (y * columns + x) * B;
          if constexpr (kPairs<E>) {
            unroll<R>(EACH(r) {
              unroll<Q / 2>(EACH(q) {
                *reinterpret_cast<typename Two<B>::LooseHalves*>(out + (r * columns + 2 * q) * B) =
                    Two<B>::of(acc[r * Q + 2 * q], acc[r * Q + 2 * q + 1]);
              });
            });
          } else {
            unroll<R>(
                EACH(r) { unroll<Q>(EACH(q) { Cell<E, B>::at(out + (r * columns + q) * B) = acc[r * Q + q]; }); });
          }
        }
      }
    }
  }
};

// Copies every S-th pixel, for stages without a depthwise convolution.
template <typename E, int B>
struct Gather {
  const E* source;
  int64_t pitch, plane, blocks, stride, rows, columns;
  Entry<E>* strip;
  int64_t strip_plane;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      Entry<E>* out = strip + b * strip_plane;
      for (int64_t y = 0; y < rows; ++y) {
        const E* p = source + b * plane + y * stride * pitch;
        for (int64_t x = 0; x < columns; ++x, out += B) {
          Map<Entry<E>, B>::write(out, Cell<E, B>::first(p + x * stride * B));
        }
      }
    }
  }
};

// Σ d and Σ d² per channel, d = z − shift, [blocks, B]; null where not wanted.
template <typename T>
struct Moments {
  const T* shift;
  T *first, *second;
};

// Where a pointwise product goes: NHWC rows of a tensor, or a bordered private buffer.
template <typename M, int B>
struct ToTensor {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  static constexpr bool kWrites = true;  // what it prefetches: the next strip's place
  M* data;
  int64_t channels;
  bool nontemporal;  // stores; `data` and its rows are whole vectors then

  FASTDARTS_INLINE bool whole(int64_t blocks) const { return blocks * B <= channels; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    M* o = data + pixel * channels + block * B;
    if constexpr (kHalf<M>) {
      store(reinterpret_cast<typename Map<M, B>::LooseHalves*>(o), Map<M, B>::narrow(v), nontemporal);
    } else {
      store(&loose(o), v, nontemporal);
    }
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const {
    const int64_t count = channels - block * B < B ? channels - block * B : B;
    Map<M, B>::write_first(data + pixel * channels + block * B, at(v), count);
  }
};

template <typename E, int B>
struct ToBuffer {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  static constexpr bool kWrites = false;
  E* data;
  int64_t plane;
  const int64_t* where;  // offset of every pixel

  FASTDARTS_INLINE bool whole(int64_t) const { return true; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    E* o = data + block * plane + where[pixel];
    if constexpr (kPairs<E>) {  // the next pixel fills the upper half; the border's lower halves are zero
      const auto own = Two<B>::single(v);
      Cell<E, B>::words(o) = own;
      Cell<E, B>::words(o - B) = (Cell<E, B>::words(o - B) & 0xFFFF) | own << 16;
    } else {
      at(o) = v;
    }
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const { (*this)(pixel, block, at(v)); }

  // J pixels: pairs of one row are made in registers.
  template <int J>
  FASTDARTS_INLINE void tile(int64_t pixel, int64_t block, const V (&v)[J]) const {
    if (!kPairs<E> || where[pixel + J - 1] - where[pixel] != (J - 1) * B) {
      unroll<J>(EACH(j) { (*this)(pixel + j, block, v[j]); });
      return;
    }
    if constexpr (kPairs<E>) {
      E* o = data + block * plane + where[pixel];
      (*this)(pixel, block, v[0]);
      unroll<J - 1>(EACH(j) { Cell<E, B>::words(o + j * B) = Two<B>::paired(Two<B>::of(v[j], v[j + 1])); });
      Cell<E, B>::words(o + (J - 1) * B) = Two<B>::single(v[J - 1]);
    }
  }
};

// out[pixel][o] = Σ_i strip[pixel][i] · weight[o][i], and its moments.
template <typename Isa, typename E, int B, typename Store, typename M>
struct Pointwise {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  static constexpr int kInputs = kPairs<E> ? 2 : 1;  // that an element of the weight is for
  const Entry<E>* strip;
  int64_t strip_plane, inputs;
  const E* weight;  // [output block][input / kInputs][B]
  int64_t blocks, pixels;
  Store store;
  Moments<T> moments;
  const M* ahead[2];  // what to prefetch meanwhile, each as much as the output of the strip

  template <int N>  // output blocks at a time
  FASTDARTS_INLINE void of(int64_t block) const {
    constexpr int J = Isa::kTile / N;
    const int64_t steps = (inputs + kInputs - 1) / kInputs;
    const E* panel = weight + block * steps * B;
    for (int64_t pixel = 0; pixel < pixels; pixel += J) {  // the strip has room for a last partial tile
      const int64_t tile = (block * round_up(pixels, J) + pixel * N) * B;
      V acc[J * N];
      unroll<J * N>(EACH(i) { acc[i] = V{}; });
      for (int64_t first = 0; first < inputs; first += B) {
        const Entry<E>* p = strip + first / B * strip_plane + pixel * B;
        const int64_t count = inputs - first < B ? inputs - first : B;
        for (int64_t c = 0; c < count; c += kInputs) {
          decltype(Cell<E, B>::weights(panel)) w[N];
          unroll<N>(EACH(n) { w[n] = Cell<E, B>::weights(panel + (n * steps + (first + c) / kInputs) * B); });
          if (!first && ahead[0]) {  // a tile's worth in B / kInputs steps
            prefetch<1, Store::kWrites>(ahead[0] + tile + c * Isa::kTile);
            if constexpr (!Store::kWrites) prefetch<1>(ahead[1] + tile + c * Isa::kTile);
          }
          unroll<J>(EACH(j) {
            const E* s = reinterpret_cast<const E*>(p + j * B + c);
            unroll<N>(EACH(n) { acc[j * N + n] = Cell<E, B>::add_all(acc[j * N + n], w[n], s); });
          });
        }
      }
      if (pixel + J <= pixels && store.whole(block + N)) {
        if constexpr (requires { &Store::template tile<J>; }) {
          unroll<N>(EACH(n) {
            V own[J];
            unroll<J>(EACH(j) { own[j] = acc[j * N + n]; });
            store.template tile<J>(pixel, block + n, own);
          });
        } else {
          unroll<J * N>(EACH(i) { store(pixel + i / N, block + i % N, acc[i]); });
        }
        if (moments.shift) {
          unroll<N>(EACH(n) {
            const int64_t to = (block + n) * B;
            const V shift = at(moments.shift + to);
            V first[4] = {}, second[4] = {};  // short chains: a quarter of the error of one
            unroll<J>(EACH(j) {
              const V d = acc[j * N + n] - shift;
              first[j % 4] += d;
              second[j % 4] += d * d;
            });
            at(moments.first + to) += (first[0] + first[1]) + (first[2] + first[3]);
            at(moments.second + to) += (second[0] + second[1]) + (second[2] + second[3]);
          });
        }
      } else {
        alignas(64) T kept[J * N * B];
        unroll<J * N>(EACH(i) { at(kept + i * B) = acc[i]; });
        for (int64_t j = 0; j < J && pixel + j < pixels; ++j) {
          for (int64_t n = 0; n < N; ++n) {
            store.part(pixel + j, block + n, kept + (j * N + n) * B);
            if (moments.shift) {
              const int64_t to = (block + n) * B;
              const V d = at(kept + (j * N + n) * B) - at(moments.shift + to);
              at(moments.first + to) += d;
              at(moments.second + to) += d * d;
            }
          }
        }
      }
    }
  }

  FASTDARTS_INLINE void operator()() const {
    int64_t block = 0;
    for (; block + 2 <= blocks; block += 2) of<2>(block);
    if (block < blocks) of<1>(block);
  }
};

}  // namespace fastdarts
