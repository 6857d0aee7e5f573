// The product of rows and weights on the matrix tiles of AMX: bfloat16 in, float32 out, sixteen
// times the multiplications a cycle of AVX-512's float32.
//
// A number is taken as the sum of up to two bfloat16 pieces: x = x_0 + x_1, x_0 = round(x),
// x_1 = round(x - x_0), which keeps 16 bits of it. float32 rows and weights take two pieces and
// three products, x w ~ x_0 w_0 + x_1 w_0 + x_0 w_1: about 2^-17 of a product is lost, as little as
// by Toom-Cook, at a third of the rate. bfloat16 ones take one piece.
//
// A tile has 16 rows of 64 bytes. Rows: 16 of them, 32 channels each. Weights: 16 pairs of channels
// by 16 columns, the two of a pair side by side. Results: 16 rows by 16 columns. A block is two
// tiles of rows by two of columns. Where the tap moves the window of rows, the tile is loaded from
// further on: nothing is copied.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/conv1d_block/conv1d_block_pack.h"
#include "kernels/conv1d_block/conv1d_block_simd.h"
#include "runtime/isa.h"

namespace n2m::conv1d_block {

using simd::BitCast;
using simd::Int;
using simd::UInt;

constexpr int64_t kAmxRows = 16, kAmxDepth = 32, kAmxPanel = 32;
constexpr int64_t kAmxStep = 2 * kAmxRows * kAmxDepth;  // weights of a panel, one step, one piece

// ----------------------------------------------------------------------------- pieces of a number

// x_0 in the upper halves; *rest = x - x_0. NaN stays NaN.
template <int L>
N2M_INLINE UInt<L> Piece(Float<L> x, Float<L>* rest) {
  const UInt<L> piece = simd::NearestBFloat16<L>(x) & 0xffff0000u;
  *rest = x - BitCast<Float<L>>(piece);
  return piece;
}

// The same as a vector of halves.
template <bool kNative, int L>
N2M_INLINE typename simd::Types<L>::Half NextPiece(Float<L>* rest) {
  using Half = typename simd::Types<L>::Half;
  if constexpr (kNative) {
    const Half half = simd::RoundNatively<L>(*rest);
    *rest -= BitCast<Float<L>>(__builtin_convertvector(half, UInt<L>) << 16);
    return half;
  } else {
    return __builtin_convertvector(Piece<L>(*rest, rest) >> 16, Half);
  }
}

struct AmxSplitArgs {
  bool native;  // RoundsToBFloat16()
  const float* from;
  int64_t rows, from_stride;  // of whole vectors
  int64_t width;              // of a row that is read; zeros follow up to to_width
  int pieces;
  uint16_t* to[2];
  int64_t to_stride, to_width;
};

template <int L>
struct AmxSplit {
  static N2M_INLINE void Run(const AmxSplitArgs& a) {
    if constexpr (L == 16) {
      if (a.native) return Rounded<true>(a);
    }
    Rounded<false>(a);
  }
  template <bool kNative>
  static N2M_INLINE void Rounded(const AmxSplitArgs& a) {
    for (int64_t r = 0; r < a.rows; ++r) {
      const float* from = a.from + r * a.from_stride;
      for (int64_t i = 0; i < a.to_width; i += L) {
        Float<L> rest = i < a.width ? Load<L>(from + i) : Set<L>(0.0f);
        for (int p = 0; p < a.pieces; ++p) {
          const auto half = NextPiece<kNative, L>(&rest);
          std::memcpy(a.to[p] + r * a.to_stride + i, &half, sizeof(half));
        }
      }
    }
  }
};
N2M_MULTI_ISA(AmxSplit, AmxSplitArgs)

// ------------------------------------------------------------------------------------- weights

struct AmxPackArgs {
  bool native;       // RoundsToBFloat16()
  const void* from;  // of a WeightView: channel 0, column 0
  DType dtype;
  int64_t panels;
  int64_t ins, outs;              // channels and columns that exist; the others become zeros
  int64_t in_stride, out_stride;  // one of them is 1
  int pieces;
  uint16_t* to;  // panel q: to + q to_panel: (pieces, 2 tiles, 16 pairs, 16 columns, 2)
  int64_t to_panel;
};

template <int L>
struct AmxPack {
  template <class T>
  static N2M_INLINE Float<L> At(const T* from, int64_t left) {
    return left >= L   ? Load<L>(from)
           : left <= 0 ? Set<L>(0.0f)
                       : LoadPart<L>(from, static_cast<int>(left));
  }
  // One pair of channels, L columns. Of T = BFloat16 there is one piece, which is the number.
  template <class T, bool kNative>
  static N2M_INLINE void Put(const AmxPackArgs& a, int64_t pair, int64_t column, Float<L> even,
                             Float<L> odd) {
    uint16_t* to = a.to + column / kAmxPanel * a.to_panel +
                   (column % kAmxPanel / kAmxRows * kAmxRows + pair) * kAmxDepth +
                   column % kAmxRows * 2;
    if constexpr (sizeof(T) == 2) {
      const UInt<L> both = (BitCast<UInt<L>>(even) >> 16) | BitCast<UInt<L>>(odd);
      std::memcpy(to, &both, sizeof(both));
      return;
    }
    for (int p = 0; p < a.pieces; ++p) {
      UInt<L> both;
      if constexpr (kNative) {
        both = simd::RoundPairsNatively<L>(even, odd, std::make_integer_sequence<int, 2 * L>());
        even -= BitCast<Float<L>>(both << 16);
        odd -= BitCast<Float<L>>(both & 0xffff0000u);
      } else {
        both = (Piece<L>(even, &even) >> 16) | Piece<L>(odd, &odd);
      }
      std::memcpy(to + p * kAmxStep, &both, sizeof(both));
    }
  }
  template <class T, bool kNative = false>
  static N2M_INLINE void Typed(const AmxPackArgs& a) {
    constexpr int64_t kAhead = 8;  // rows lie apart: the processor does not see the runs
    const T* from = static_cast<const T*>(a.from);
    const int64_t columns = a.panels * kAmxPanel;
    if (a.out_stride == 1) {
      for (int64_t i = 0; i < kAmxDepth; i += 2) {
        const T* at = from + i * a.in_stride;
        for (int64_t n = 0; n < columns; n += L) {
          __builtin_prefetch(at + kAhead * a.in_stride + n);
          __builtin_prefetch(at + (kAhead + 1) * a.in_stride + n);
          Put<T, kNative>(a, i / 2, n, At(at + n, i < a.ins ? a.outs - n : 0),
                          At(at + a.in_stride + n, i + 1 < a.ins ? a.outs - n : 0));
        }
      }
      return;
    }
    for (int64_t n = 0; n < columns; n += L) {
      for (int64_t i = 0; i < kAmxDepth; i += L) {
        Float<L> block[L];
        for (int j = 0; j < L; ++j) {
          const T* at = from + (n + j) * a.out_stride + i;
          __builtin_prefetch(at + kAmxDepth);
          block[j] = At(at, n + j < a.outs ? a.ins - i : 0);
        }
        simd::Transpose<L>(block);
        for (int j = 0; j < L; j += 2) Put<T, kNative>(a, (i + j) / 2, n, block[j], block[j + 1]);
      }
    }
  }
  static N2M_INLINE void Run(const AmxPackArgs& a) {
    if (a.dtype == DType::kBFloat16) return Typed<BFloat16>(a);
    if constexpr (L == 16) {
      if (a.native) return Typed<float, true>(a);
    }
    Typed<float>(a);
  }
};
N2M_MULTI_ISA(AmxPack, AmxPackArgs)

// ------------------------------------------------------------------------------------- products

struct AmxArgs {
  const uint16_t* a[2];  // pieces of the rows; row r, step s begins at a + r row_stride + offset[s]
  int64_t rows, row_stride;
  int64_t steps;
  const int64_t* offset;
  const uint16_t* b;  // step s: b + s b_pieces kAmxStep
  int a_pieces, b_pieces;
  const float* init;  // what results start from: row r at init + r init_stride
  int64_t init_stride;
  float* c;  // (rows rounded up to 16, c_stride): two tiles side by side
  int64_t c_stride;
};

#if defined(__x86_64__)
// Registers tmm0 to tmm7; a thread owns them while an AmxSession lives.
struct AmxTiles {
  template <int N>
  N2M_INLINE void Load(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(N) : "memory");
  }
  template <int N>
  N2M_INLINE void Store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(N) : "memory");
  }
  template <int C, int A, int B>
  N2M_INLINE void Dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
#endif

// The same in plain C++.
struct AmxEmulation {
  float tile[8][kAmxRows][kAmxRows];
  template <int N>
  void Load(const void* from, int64_t stride_bytes) {
    for (int64_t r = 0; r < kAmxRows; ++r) {
      std::memcpy(tile[N][r], static_cast<const char*>(from) + r * stride_bytes, 64);
    }
  }
  template <int N>
  void Store(void* to, int64_t stride_bytes) {
    for (int64_t r = 0; r < kAmxRows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride_bytes, tile[N][r], 64);
    }
  }
  // Number `odd` of the pair in a four-byte place.
  static float Half(float place, int odd) {
    const uint32_t bits = BitCast<uint32_t>(place);
    return BitCast<float>(odd != 0 ? bits & 0xffff0000u : bits << 16);
  }
  template <int C, int A, int B>
  void Dot() {
    for (int64_t k = 0; k < kAmxRows; ++k) {
      for (int odd = 0; odd < 2; ++odd) {
        float b[kAmxRows];
        for (int64_t n = 0; n < kAmxRows; ++n) b[n] = Half(tile[B][k][n], odd);
        for (int64_t m = 0; m < kAmxRows; ++m) {
          const float a = Half(tile[A][m][k], odd);
          for (int64_t n = 0; n < kAmxRows; ++n) tile[C][m][n] += a * b[n];
        }
      }
    }
  }
};

template <class Tiles>
struct AmxProduct {
  // Results in tiles 0 to 3, rows in 4 and 5, weights in 6 and 7.
  template <bool kLow>  // whether there is a second tile of rows
  static N2M_INLINE void Dots(Tiles& t) {
    t.template Dot<0, 4, 6>();
    t.template Dot<1, 4, 7>();
    if constexpr (kLow) {
      t.template Dot<2, 5, 6>();
      t.template Dot<3, 5, 7>();
    }
  }
  template <bool kLow>
  static N2M_INLINE void Rows(Tiles& t, const uint16_t* a, int64_t stride) {
    t.template Load<4>(a, 2 * stride);
    if constexpr (kLow) t.template Load<5>(a + kAmxRows * stride, 2 * stride);
  }
  template <bool kLow>
  static N2M_INLINE void Block(Tiles& t, const AmxArgs& s, int64_t row) {
    const int64_t init_bytes = 4 * s.init_stride, c_bytes = 4 * s.c_stride;
    const float* init = s.init + row * s.init_stride;
    t.template Load<0>(init, init_bytes);
    t.template Load<1>(init + kAmxRows, init_bytes);
    if constexpr (kLow) {
      t.template Load<2>(init + kAmxRows * s.init_stride, init_bytes);
      t.template Load<3>(init + kAmxRows * s.init_stride + kAmxRows, init_bytes);
    }
    const uint16_t* b = s.b;
    for (int64_t i = 0; i < s.steps; ++i, b += s.b_pieces * kAmxStep) {
      const int64_t at = row * s.row_stride + s.offset[i];
      Rows<kLow>(t, s.a[0] + at, s.row_stride);
      t.template Load<6>(b, 64);
      t.template Load<7>(b + kAmxStep / 2, 64);
      Dots<kLow>(t);
      if (s.a_pieces > 1) {
        Rows<kLow>(t, s.a[1] + at, s.row_stride);
        Dots<kLow>(t);
        if (s.b_pieces > 1) Rows<kLow>(t, s.a[0] + at, s.row_stride);
      }
      if (s.b_pieces > 1) {
        t.template Load<6>(b + kAmxStep, 64);
        t.template Load<7>(b + kAmxStep + kAmxStep / 2, 64);
        Dots<kLow>(t);
      }
    }
    float* c = s.c + row * s.c_stride;
    t.template Store<0>(c, c_bytes);
    t.template Store<1>(c + kAmxRows, c_bytes);
    if constexpr (kLow) {
      t.template Store<2>(c + kAmxRows * s.c_stride, c_bytes);
      t.template Store<3>(c + kAmxRows * s.c_stride + kAmxRows, c_bytes);
    }
  }
  static N2M_INLINE void Run(const AmxArgs& s) {
    Tiles t;
    for (int64_t row = 0; row < s.rows; row += 2 * kAmxRows) {
      if (s.rows - row > kAmxRows) {
        Block<true>(t, s, row);
      } else {
        Block<false>(t, s, row);
      }
    }
  }
};

// A thread's tiles, of the one shape there is here, for as long as it lives.
class AmxSession {
 public:
  AmxSession() {
#if defined(__x86_64__)
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    if (!AmxIsEmulated()) Configure(&config);
#endif
  }
  ~AmxSession() {
#if defined(__x86_64__)
    if (!AmxIsEmulated()) Release();
#endif
  }
  AmxSession(const AmxSession&) = delete;
  AmxSession& operator=(const AmxSession&) = delete;

 private:
#if defined(__x86_64__)
  __attribute__((target("amx-tile"))) static void Configure(const void* config) {
    asm volatile("ldtilecfg (%0)" ::"r"(config) : "memory");
  }
  __attribute__((target("amx-tile"))) static void Release() { asm volatile("tilerelease"); }
#endif
};

#if defined(__x86_64__)
__attribute__((target("amx-tile,amx-bf16"))) inline void AmxProduct_amx(const AmxArgs& s) {
  AmxProduct<AmxTiles>::Run(s);
}
#endif
// c = init + rows times weights, within an AmxSession.
inline void AmxProduct_Run(const AmxArgs& s) {
#if defined(__x86_64__)
  if (!AmxIsEmulated()) return AmxProduct_amx(s);
#endif
  AmxProduct<AmxEmulation>::Run(s);
}

}  // namespace n2m::conv1d_block
