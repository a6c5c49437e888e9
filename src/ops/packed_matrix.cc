#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "base/check.h"
#include "ops/matmul.h"
#include "ops/panel_layout.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr int64_t kNoRow = std::numeric_limits<int64_t>::max();

void StoreF16(std::byte* at, int row, float value) {
  uint16_t bits = F32ToF16(value);
  std::memcpy(at + 2 * row, &bits, sizeof(bits));
}

// Scales of one row of one block. `scales` follows the block's codes, `super` is the header of its
// eight blocks.
void StoreScales(ScaleForm form, const CodeBlock& block, int row, std::byte* scales,
                 std::byte* super) {
  switch (form) {
    case ScaleForm::kAffine:
      StoreF16(scales + 32, row, block.offset[0]);
      [[fallthrough]];
    case ScaleForm::kSymmetric:
      StoreF16(scales, row, block.scale[0]);
      break;
    case ScaleForm::kSuperAffine:
      scales[row] = static_cast<std::byte>(block.sub_scale[0]);
      scales[16 + row] = static_cast<std::byte>(block.sub_offset[0]);
      StoreF16(super, row, block.super_scale);
      StoreF16(super + 32, row, block.super_offset);
      break;
    case ScaleForm::kSuperHalves:
      scales[row] = static_cast<std::byte>(block.sub_scale[0]);
      scales[16 + row] = static_cast<std::byte>(block.sub_scale[1]);
      StoreF16(super, row, block.super_scale);
      break;
    case ScaleForm::kNone:
      break;
  }
}

// The eight code vectors of a block to the planes of panel_layout.h.
void StoreCodes(int code_bits, const uint8_t (&v)[8][kCodeVectorBytes], std::byte* out) {
  uint8_t* p = reinterpret_cast<uint8_t*>(out);
  if (code_bits == 8) {
    std::memcpy(p, v, sizeof(v));
    return;
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < kCodeVectorBytes; ++j) {
      *p++ = static_cast<uint8_t>((v[2 * i][j] & 15) | (v[2 * i + 1][j] << 4));
    }
  }
  const int high_bits = code_bits - 4, per_plane = 8 / std::max(1, high_bits);
  for (int plane = 0; plane < high_bits; ++plane) {
    for (int j = 0; j < kCodeVectorBytes; ++j) {
      int byte = 0;
      for (int u = 0; u < per_plane; ++u)
        byte |= v[plane * per_plane + u][j] >> 4 << (u * high_bits);
      *p++ = static_cast<uint8_t>(byte);
    }
  }
}

bool ScalesAreFinite(const CodeBlock& b) {
  return std::isfinite(b.scale[0]) && std::isfinite(b.scale[1]) && std::isfinite(b.offset[0]) &&
         std::isfinite(b.offset[1]);
}

// Packs n_rows (up to 16) rows; returns the first row with a non-finite scale, or 16.
int PackIntegerPanel(const WeightCodecInfo& codec, PanelLayout layout, const std::byte* rows,
                     int64_t row_bytes, int n_rows, int64_t n_blocks, std::byte* panel) {
  std::byte* super = nullptr;
  for (int64_t b = 0; b < n_blocks; ++b) {
    if (b % kBlocksPerSuper == 0) {
      super = panel;
      panel += layout.super_bytes();
    }
    alignas(64) uint8_t v[8][kCodeVectorBytes] = {};
    for (int r = 0; r < n_rows; ++r) {
      CodeBlock block;
      codec.unpack(rows + r * row_bytes, b, &block);
      if (!ScalesAreFinite(block)) return r;
      for (int i = 0; i < 8; ++i) std::memcpy(&v[i][4 * r], &block.code[4 * i], 4);
      StoreScales(layout.form, block, r, panel + layout.code_bytes(), super);
    }
    StoreCodes(layout.code_bits, v, panel);
    panel += layout.block_bytes();
  }
  return kPanelRows;
}

bool IsFinite(float x) { return std::isfinite(x); }

// Rows of any format as [n_cols][16] floats.
int PackF32Panel(const WeightCodecInfo& codec, const std::byte* rows, int64_t row_bytes, int n_rows,
                 int64_t n_cols, std::byte* panel) {
  std::vector<float> row(static_cast<std::size_t>(n_cols));
  for (int r = 0; r < n_rows; ++r) {
    codec.decode(rows + r * row_bytes, n_cols, row.data());
    if (!std::all_of(row.begin(), row.end(), IsFinite)) return r;
    for (int64_t k = 0; k < n_cols; ++k) {
      std::memcpy(panel + (k * kPanelRows + r) * 4, &row[static_cast<std::size_t>(k)], 4);
    }
  }
  return kPanelRows;
}

// F16 or BF16 rows as [n_cols][16], bits unchanged.
int PackHalfPanel(uint16_t exponent_mask, const std::byte* rows, int64_t row_bytes, int n_rows,
                  int64_t n_cols, std::byte* panel) {
  for (int r = 0; r < n_rows; ++r) {
    for (int64_t k = 0; k < n_cols; ++k) {
      uint16_t bits;
      std::memcpy(&bits, rows + r * row_bytes + 2 * k, 2);
      if ((bits & exponent_mask) == exponent_mask) return r;
      std::memcpy(panel + (k * kPanelRows + r) * 2, &bits, 2);
    }
  }
  return kPanelRows;
}

Status CheckShape(const WeightCodecInfo& codec, int64_t n_rows, int64_t n_cols) {
  const int64_t block = GetDTypeInfo(codec.dtype).block_elements;
  if (n_rows < 1 || n_cols < 1 || n_cols % block != 0) {
    return InvalidArgument(
        fmt::format("matmul: {} weights: expected rows of a multiple of {} columns, found [{}, {}]",
                    codec.id, block, n_rows, n_cols));
  }
  return Status::Ok();
}

}  // namespace

Result<PackedMatrix> PackedMatrix::Pack(const WeightCodecInfo& codec, const std::byte* data,
                                        int64_t n_rows, int64_t n_cols, MatMulPrecision precision,
                                        ThreadPool& pool) try {
  PHASOR_RETURN_IF_ERROR(CheckShape(codec, n_rows, n_cols));
  PackedMatrix m;
  m.n_rows_ = n_rows;
  m.n_cols_ = n_cols;
  m.may_round_ = precision == MatMulPrecision::kInt8;
  if (codec.is_float) {
    m.float_dtype_ = codec.dtype;
    m.panel_bytes_ = static_cast<std::size_t>(RowBytes(codec.dtype, n_cols) * kPanelRows);
  } else if (precision == MatMulPrecision::kF32) {
    m.panel_bytes_ = static_cast<std::size_t>(n_cols) * sizeof(float) * kPanelRows;
  } else {
    m.layout_ = {codec.code_bits, codec.scale_form};
    m.panel_bytes_ = static_cast<std::size_t>(m.layout_.PanelBytes(n_cols / kCodeBlock));
  }
  m.panels_ = HugeBlock(m.panel_bytes_ * static_cast<std::size_t>(m.n_panels()));

  const int64_t row_bytes = RowBytes(codec.dtype, n_cols);
  std::atomic<int64_t> bad_row{kNoRow};
  pool.ParallelFor(m.n_panels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const std::byte* rows = data + p * kPanelRows * row_bytes;
      std::byte* panel = m.panels_.data() + static_cast<std::size_t>(p) * m.panel_bytes_;
      int here = static_cast<int>(std::min<int64_t>(kPanelRows, n_rows - p * kPanelRows));
      int bad;
      if (m.is_integer()) {
        bad = PackIntegerPanel(codec, m.layout_, rows, row_bytes, here, n_cols / kCodeBlock, panel);
      } else if (m.float_dtype_ == DType::kF32) {
        bad = PackF32Panel(codec, rows, row_bytes, here, n_cols, panel);
      } else {
        uint16_t exponent = m.float_dtype_ == DType::kF16 ? 0x7c00 : 0x7f80;
        bad = PackHalfPanel(exponent, rows, row_bytes, here, n_cols, panel);
      }
      if (bad == kPanelRows) continue;
      int64_t row = p * kPanelRows + bad, seen = bad_row.load();
      while (row < seen && !bad_row.compare_exchange_weak(seen, row)) {
      }
    }
  });
  if (bad_row != kNoRow) {
    return DataCorrupt(
        fmt::format("matmul: {} weights: expected finite numbers, found a NaN or an "
                    "infinity in row {}",
                    codec.id, bad_row.load()));
  }
  return m;
} catch (const std::bad_alloc&) {
  return ResourceExhausted(fmt::format("matmul: no memory for packed weights [{}, {}] of type {}",
                                       n_rows, n_cols, codec.id));
}

}  // namespace phasor
