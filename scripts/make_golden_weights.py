#!/usr/bin/env python3
"""Writes tests/golden/weights.{bin,json}: quantized bytes and the floats they stand for.

The reference is the `gguf` Python package (gguf.quants), tried with version 0.19. Every type gets two
rows of 512 weights: one quantized from normal numbers where the package can quantize the type, and
one of random bytes with plausible f16 factors, so that every bit of the layout is exercised.

    python3 scripts/make_golden_weights.py tests/golden
"""
import json
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Byte offsets of the f16 factors within a block.
F16_FIELDS = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
N_WEIGHTS = 512


def random_row(rng, name, qtype):
    block, size = GGML_QUANT_SIZES[qtype]
    n_blocks = N_WEIGHTS // block
    rows = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
    for at in F16_FIELDS[name]:
        factors = (rng.normal(size=n_blocks) * 0.02).astype(np.float16)
        rows[:, at:at + 2] = factors.view(np.uint8).reshape(n_blocks, 2)
    return rows.reshape(1, -1)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    rng = np.random.default_rng(20240229)
    blob, entries = b"", []
    for name in TYPES:
        qtype = GGMLQuantizationType[name]
        rows = []
        try:
            rows.append(quantize(rng.normal(size=(1, N_WEIGHTS)).astype(np.float32), qtype))
        except NotImplementedError:
            pass  # the package reads the K types but does not write them
        if name in F16_FIELDS:
            rows.append(random_row(rng, name, qtype))
        for row in rows:
            data = np.ascontiguousarray(row).tobytes()
            floats = dequantize(row, qtype).astype(np.float32).tobytes()
            entries.append({"type": name, "n": N_WEIGHTS, "data_offset": len(blob),
                            "data_bytes": len(data), "float_offset": len(blob) + len(data)})
            blob += data + floats
    with open(f"{folder}/weights.bin", "wb") as f:
        f.write(blob)
    with open(f"{folder}/weights.json", "w") as f:
        json.dump(entries, f, indent=0)
        f.write("\n")
    print(f"{len(entries)} rows, {len(blob)} bytes")


if __name__ == "__main__":
    main()
