#!/usr/bin/env python3
"""Writes the seed inputs of gguf_fuzz and safetensors_fuzz into fuzz/corpus (standard library only).

The seeds are committed; run this again after a change here.
"""
import json
import struct
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd"))


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def value(kind, v):
    return text(v) if kind == STRING else struct.pack("<" + CODES[kind], v)


def key(name, kind, v):
    if isinstance(v, list):
        items = b"".join(value(kind, x) for x in v)
        return text(name) + struct.pack("<IIQ", ARRAY, kind, len(v)) + items
    return text(name) + struct.pack("<I", kind) + value(kind, v)


def gguf(keys, tensors=(), version=3, alignment=32):
    """tensors: (name, type, dims, data)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    offset = 0
    for name, kind, dims, data in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        offset += -(-len(data) // alignment) * alignment
    for _, _, _, data in tensors:
        out += bytes(-len(out) % alignment) + data
    return out


def safetensors(tensors, metadata=None):
    """tensors: (name, dtype, shape, size in bytes)."""
    header, offset = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + bytes(offset)


def main():
    scalars = [key(f"k{t}", t, 1) for t in CODES] + [key("s", STRING, "llama")]
    arrays = [key(f"a{t}", t, [1, 0]) for t in CODES] + [key("as", STRING, ["a", "", "bc"])]
    types = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
             12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2), 26: (1, 4), 99: (1, 8)}
    tensors = [(f"blk.0.t{t}", t, [n, 1], bytes(size)) for t, (n, size) in types.items()]
    split = [key("split.no", U16, 0), key("split.count", U16, 1),
             key("split.tensors.count", I32, 1)]
    seeds = {
        "gguf_fuzz/empty": gguf([]),
        "gguf_fuzz/v2_scalars": gguf(scalars, version=2),
        "gguf_fuzz/arrays": gguf(arrays),
        "gguf_fuzz/tensors": gguf(scalars[-1:], tensors),
        "gguf_fuzz/aligned": gguf([key("general.alignment", U32, 64)], tensors[:2], alignment=64),
        "gguf_fuzz/split": gguf(split, [("w", 0, [2, 1, 2, 1], bytes(16))]),
        "gguf_fuzz/big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "safetensors_fuzz/empty": safetensors([]),
        "safetensors_fuzz/three": safetensors(
            [("a", "F32", [2, 3], 24), ("b", "BF16", [4], 8), ("n", "I64", [], 8)],
            {"format": "pt"}),
        "safetensors_fuzz/types": safetensors(
            [("x", "F16", [1, 1, 1, 1, 1], 2), ("y", "F8_E4M3", [3], 3), ("z", "F32", [0], 0)]),
        "safetensors_fuzz/nested": struct.pack("<Q", 16) + b'{"a":[[{"b":1}]]}',
    }
    for name, data in seeds.items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(seeds)} seeds, {sum(map(len, seeds.values()))} bytes")


if __name__ == "__main__":
    main()
