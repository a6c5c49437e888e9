#!/usr/bin/env python3
"""Writes the seed inputs of span_file_fuzz into fuzz/corpus (standard library only).

Checksums are left zero: the target makes them right. The seeds are committed; run this again after a
change here.
"""
import struct
from pathlib import Path

OUT = Path(__file__).resolve().parent / "corpus" / "span_file_fuzz"
ROWS, CODES = 0, 1
ONE = 65536  # a position


def text(s):
    return struct.pack("<I", len(s)) + s.encode()


def pad(data):
    return data + bytes(-len(data) % 64)


def span(n_layers, n_kv_heads, blocks, pieces, attachments=(), known=1, version=1):
    """blocks: (encoding, number of tokens); pieces: (block, first row, rows, shift)."""
    row, page = 4, 70  # bytes
    out = struct.pack("<Q", len(blocks)) + bytes(8 * len(blocks))
    out += text("0123456789abcdef") + text("t")
    out += struct.pack("<5I", n_layers, n_kv_heads, 2, 2, 8) + text("rope") + struct.pack("<Q", 7)
    out += (text("frame4") + text("q4_head") + text("f16") * 2 + struct.pack("<Q", 0)) * n_layers
    out += struct.pack("<4I", row, row, page, page) * (n_layers * n_kv_heads)
    out += struct.pack("<IQ", known, 3 * known) + bytes([known]) * 16
    n_tokens = sum(p[2] for p in pieces)
    out += struct.pack("<Q", n_tokens) + struct.pack(f"<{n_tokens}i", *range(n_tokens))
    out += struct.pack("<qQ", n_tokens * ONE, 1) + struct.pack("<fQ", 1.0, 1 << 61)
    payload = b""
    for encoding, n in blocks:
        out += struct.pack("<III", encoding, 0, n) + struct.pack(f"<{n}q", *(i * ONE for i in range(n)))
        size = page if encoding == CODES else n * row
        payload += pad(b"\x55" * size) * (2 * n_layers * n_kv_heads)
    out += struct.pack("<Q", len(pieces)) + b"".join(struct.pack("<IIIIIIq", *p[:3], 0, 0, 0, p[3])
                                                      for p in pieces)
    out += struct.pack("<Q", len(attachments))
    for name, data in attachments:
        out += text(name) + struct.pack("<Q", len(data)) + data
    header = pad(out)
    total = 64 + len(header) + len(payload)
    return b"PHSPAN\r\n" + struct.pack("<IIQQQQQQ", version, 0, total, len(header), 0, 0, 0, 0) + \
        header + payload


def main():
    seeds = {
        "rows": span(1, 1, [(ROWS, 3)], [(0, 0, 3, 0)]),
        "codes": span(2, 1, [(CODES, 8), (ROWS, 2)], [(0, 0, 8, 0), (1, 0, 2, 0)]),
        "edited": span(1, 2, [(CODES, 8), (ROWS, 2)], [(1, 1, 1, -ONE), (0, 4, 4, 9), (0, 0, 2, ONE)],
                       known=0),
        "session": span(1, 1, [(ROWS, 1)], [(0, 0, 1, 0)], [("logits", b"\0" * 12), ("seed", b"")]),
        "future": span(1, 1, [(ROWS, 1)], [(0, 0, 1, 0)], version=3),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (OUT / name).write_bytes(data)
    print(f"{len(seeds)} seeds, {sum(map(len, seeds.values()))} bytes")


if __name__ == "__main__":
    main()
