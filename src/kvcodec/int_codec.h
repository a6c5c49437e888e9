// What q8_0, q4_0, their rotated forms, q4_head and q3_head share: pages of small integer codes
// with 16-bit scales (layout: int_kernels.h), with or without a Hadamard rotation.
#pragma once

#include <cstdint>
#include <memory>

#include "contracts/kv_codec.h"
#include "kvcodec/int_kernels.h"
#include "kvcodec/value_stretch.h"

namespace phasor {

// One block of n finite numbers, |x| <= 65504, zero padded in memory to a multiple of 16. Writes
// the scale as f16 bits and n codes: 0 .. 2^bits-1 (8 bits: -127 .. 127 as bytes).
using QuantizeBlock = void (*)(const float* x, int n, uint16_t* scale, uint8_t* codes);

void QuantizeQ8_0(const float* x, int n, uint16_t* scale, uint8_t* codes);
void QuantizeQ4_0(const float* x, int n, uint16_t* scale, uint8_t* codes);

extern const IntLevels kLevels8;     // code, signed
extern const IntLevels kLevelsQ4_0;  // code - 8
extern const IntLevels kLevelsSearched4;
extern const IntLevels kLevelsSearched3;

struct IntFormat {
  const IntLevels* levels;
  int block;               // channels per scale, a multiple of 32; 0: one scale per row
  bool hadamard;           // store vectors after HadamardRows
  QuantizeBlock quantize;  // null: the searched grids, a scale per row (searched_rows.h)
};

// Fails with kUnsupported for head sizes outside 1 .. 1024.
Result<std::unique_ptr<KvCodec>> MakeIntCodec(
    const char* id, const IntFormat& format, const KvCodecParams& params,
    std::unique_ptr<const ValueStretch> stretch = nullptr);

// q4_head and q3_head: rows after HadamardRows with one scale each, `bits` of 3 or 4. A value head
// takes the width that KvCodecParams::classes names instead, one class: 3, 4 or 8 bits, and is
// stretched (value_stretch.h) where KvCodecParams has directions. Keys pay no attention to either.
Result<std::unique_ptr<KvCodec>> MakeHeadRowCodec(const char* id, int bits,
                                                  const KvCodecParams& params);

}  // namespace phasor
