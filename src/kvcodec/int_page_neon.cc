// Integer pages with NEON, for both levels: decoding, and the search for the scale of a row.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0

#include "kvcodec/int_neon-inl.h"

namespace phasor {
namespace {

// Numbers of 4 channels of one token from bytes in the low ends of four words.
PHASOR_INLINE void StoreSome(float32x4_t x, int n, float* out) {
  if (n >= 4) {
    vst1q_f32(out, x);
    return;
  }
  float lane[4];
  vst1q_f32(lane, x);
  for (int i = 0; i < n; ++i) out[i] = lane[i];
}

// Step s of a tile, for a number that is not known when compiling.
template <int BITS>
PHASOR_INLINE uint8x16_t CodesOfStep(const std::byte* tile, int s, int v) {
  using T = Tile<BITS>;
  switch (s) {
    case 0:
      return T::Codes(tile, 0, v);
    case 1:
      return T::Codes(tile, 1, v);
    case 2:
      return T::Codes(tile, 2 % T::kSteps, v);
    default:
      return T::Codes(tile, 3 % T::kSteps, v);
  }
}

// Tokens are bytes of a lane, lanes are channels.
template <int BITS, int BOOK_BITS>
void DecodeValues(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const Table<BOOK_BITS> table(*shape.levels);
  BlockScales block;
  for (int b = 0; b < shape.n_blocks; ++b) {
    LoadScales<BITS, BOOK_BITS>(scales + b * kPageTokens, &block);
    const int begin = b * shape.block;
    const int end = b + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
    for (int t = 0; t < n_tokens; t += 4) {
      const std::byte* row = page + shape.codes_at + t / shape.group * row_bytes;
      const uint8x16_t book = Repeat4Unsigned(block.book + t);
      for (int channel = begin; channel < end; channel += 4) {
        const uint8x16_t code =
            CodesOfStep<BITS>(row + channel / 16 * T::kBytes, t % shape.group / 4, channel / 4 % 4);
        const int8x16_t level =
            BITS == 8 ? vreinterpretq_s8_u8(code) : table.Lookup(vorrq_u8(code, book));
        for (int i = 0; i < 4 && t + i < n_tokens; ++i) {
          const int32x4_t up = vshlq_s32(vreinterpretq_s32_s8(level), vdupq_n_s32(24 - 8 * i));
          const float scale = block.size[t + i] * static_cast<float>(block.sign[t + i]);
          StoreSome(vmulq_n_f32(vcvtq_f32_s32(vshrq_n_s32(up, 24)), scale), end - channel,
                    x_TD + (t + i) * shape.head_dim + channel);
        }
      }
    }
  }
}

// Channels are bytes of a lane, lanes are tokens.
template <int BITS, int BOOK_BITS>
void DecodeKeys(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const Table<BOOK_BITS> table(*shape.levels);
  constexpr uint8_t kSpread[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const uint8x16_t spread = vld1q_u8(kSpread);
  BlockScales block;
  for (int b = 0; b < shape.n_blocks; ++b) {
    LoadScales<BITS, BOOK_BITS>(scales + b * kPageTokens, &block);
    const int begin = b * shape.block;
    const int end = b + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
    for (int c = begin; c < end; c += 4) {
      const std::byte* row = page + shape.codes_at + c / shape.group * row_bytes;
      for (int t = 0; t < n_tokens; t += 4) {
        const uint8x16_t book = vqtbl1q_u8(Repeat4Unsigned(block.book + t), spread);
        const uint8x16_t code =
            CodesOfStep<BITS>(row + t / 16 * T::kBytes, c % shape.group / 4, t / 4 % 4);
        const int8x16_t level =
            BITS == 8 ? vreinterpretq_s8_u8(code) : table.Lookup(vorrq_u8(code, book));
        int8_t bytes[20] = {};  // four more than there are: eight are read at a time
        vst1q_s8(bytes, level);
        for (int i = 0; i < 4 && t + i < n_tokens; ++i) {
          const int32x4_t wide = vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(bytes + 4 * i))));
          const float scale = block.size[t + i] * static_cast<float>(block.sign[t + i]);
          StoreSome(vmulq_n_f32(vcvtq_f32_s32(wide), scale), end - c,
                    x_TD + (t + i) * shape.head_dim + c);
        }
      }
    }
  }
}

template <int BITS, int BOOK_BITS>
void DecodeBits(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const bool key = shape.role == KvRole::kKey;
  (key ? DecodeKeys<BITS, BOOK_BITS> : DecodeValues<BITS, BOOK_BITS>)(shape, page, n_tokens, x_TD);
}

// The nearest levels of 128 places: one table of 64 bytes for each half.
struct NearestTable {
  int8x16x4_t half[2];
  explicit NearestTable(const int8_t* nearest) {
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) half[i / 4].val[i % 4] = vld1q_s8(nearest + 16 * i);
  }
  // place: -64 .. 63.
  PHASOR_INLINE int8x16_t Find(int8x16_t place) const {
    const uint8x16_t index = vandq_u8(vreinterpretq_u8_s8(place), vdupq_n_u8(127));
    return vqtbx4q_s8(vqtbl4q_s8(half[0], index), half[1], vsubq_u8(index, vdupq_n_u8(64)));
  }
};

}  // namespace

void DecodeIntNeon(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const int book_bits = shape.levels->book_bits;
  if (shape.bits == 3) DecodeBits<3, 2>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 0) DecodeBits<4, 0>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 1) DecodeBits<4, 1>(shape, page, n_tokens, x_TD);
  if (shape.bits == 8) DecodeBits<8, 0>(shape, page, n_tokens, x_TD);
}

void SearchIntNeon(const IntSearchArgs& a) {
  const int n_padded = (4 - a.n % 4) % 4;  // zeros, each counted with its nearest level
  // Packing leaves 4 rows of each of 4 channels; 4 channels of a row are to be a dword.
  static constexpr uint8_t kByRow[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const uint8x16_t by_row = vld1q_u8(kByRow);
  for (int b = 0; b < a.n_books; ++b) {
    const NearestTable table(a.nearest[b]);
    const uint32x4_t padding =
        vdupq_n_u32(static_cast<uint32_t>(n_padded * a.nearest[b][0] * a.nearest[b][0]));
    for (int step = 0; step < kSearchSteps; ++step) {
      for (int row = 0; row < 16; row += 4) {
        const float32x4_t inverse = vld1q_f32(a.inverse[step] + row);
        uint32x4_t sum[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
        for (int c = 0; c < a.n; c += 4) {
          int16x4_t x[4];
          PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
            const float32x4_t scaled = vmulq_f32(vld1q_f32(a.x_DT + 16 * (c + i) + row), inverse);
            x[i] = vqmovn_s32(vcvtnq_s32_f32(scaled));
          }
          const int8x16_t packed =
              vqmovn_high_s16(vqmovn_s16(vcombine_s16(x[0], x[1])), vcombine_s16(x[2], x[3]));
          const int8x16_t plus = vqtbl1q_s8(packed, by_row);
          PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
            const int8x16_t y = v == 0 ? plus : vnegq_s8(plus);
            const int8x16_t place = vmaxq_s8(vminq_s8(y, vdupq_n_s8(63)), vdupq_n_s8(-64));
            // A byte even where the difference needs nine bits: it is at most 127 + 63.
            const uint8x16_t e = vreinterpretq_u8_s8(vabdq_s8(y, table.Find(place)));
            const uint32x4_t low = vpaddlq_u16(vmull_u8(vget_low_u8(e), vget_low_u8(e)));
            const uint32x4_t high = vpaddlq_u16(vmull_high_u8(e, e));
            sum[v] = vaddq_u32(sum[v], vpaddq_u32(low, high));
          }
        }
        for (int v = 0; v < 2; ++v) {
          vst1q_s32(a.error[step][2 * b + v] + row,
                    vreinterpretq_s32_u32(vsubq_u32(sum[v], padding)));
        }
      }
    }
  }
}

}  // namespace phasor
#endif  // __aarch64__
