#!/usr/bin/env python3
"""Takes the novels out of the data file of the R package janeaustenr, without R.

    unpack_texts.py Rdata.rdb FOLDER

The file is a row of records: u32 big-endian size of the content, then one zlib stream. Each content
is an R serialization (XDR, version 3) of one character vector, the lines of a novel:

    "X\\n", i32 version, i32 writer, i32 oldest reader, i32 n, n bytes: name of the encoding
    i32 0x10 (character vector without attributes), i32 n_lines
    per line: i32 flags (low byte 9: string), i32 n (-1: missing), n bytes

Writes FOLDER/<title of the novel in lower case with underscores>.txt, UTF-8, one \\n per line. Any
error is one line on stderr and exit code 1.
"""
import os
import struct
import sys
import zlib

MAX_NOVEL_BYTES = 16 << 20
CHARACTER_VECTOR = 0x10
STRING = 9


class FormatError(Exception):
    pass


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n):
        if n < 0 or n > len(self.data) - self.at:
            raise FormatError(f"expected {n} bytes at {self.at}, found {len(self.data) - self.at}")
        self.at += n
        return self.data[self.at - n:self.at]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]


def records(data):
    """The contents of all records of the file."""
    reader = Reader(data)
    while reader.at < len(data):
        n_bytes = reader.i32()
        if not 0 <= n_bytes <= MAX_NOVEL_BYTES:
            raise FormatError(f"expected a record of at most {MAX_NOVEL_BYTES} bytes, "
                              f"found {n_bytes}")
        stream = zlib.decompressobj()
        content = stream.decompress(data[reader.at:], n_bytes)
        # A last call without room lets the stream see its own end.
        content += stream.decompress(stream.unconsumed_tail, 1)
        if len(content) != n_bytes or not stream.eof:
            raise FormatError(f"expected a record of {n_bytes} bytes, found {len(content)}")
        reader.at = len(data) - len(stream.unused_data)
        yield content


def lines_of(content):
    """The lines in one serialized character vector."""
    reader = Reader(content)
    if reader.take(2) != b"X\n" or reader.i32() != 3:
        raise FormatError("expected an R serialization (XDR, version 3)")
    reader.take(8)
    reader.take(reader.i32())
    kind = reader.i32()
    if kind != CHARACTER_VECTOR:
        raise FormatError(f"expected a character vector (0x10), found {kind:#x}")
    lines = []
    for _ in range(reader.i32()):
        if reader.i32() & 0xff != STRING:
            raise FormatError(f"expected a string in line {len(lines)}")
        n = reader.i32()
        lines.append(b"" if n == -1 else reader.take(n))
    if reader.at != len(content):
        raise FormatError(f"expected the end after {len(lines)} lines, found more bytes")
    return lines


def write_novel(lines, folder):
    title = next((line for line in lines if line.strip()), b"").decode("ascii")
    name = title.strip().lower().replace(" ", "_")
    if not name.replace("_", "").isalpha():
        raise FormatError(f"expected the title of a novel in the first line, found {title!r}")
    path = os.path.join(folder, name + ".txt")
    with open(path + ".partial", "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)


def main():
    if len(sys.argv) != 3:
        print("usage: unpack_texts.py Rdata.rdb FOLDER", file=sys.stderr)
        return 2
    try:
        with open(sys.argv[1], "rb") as file:
            data = file.read()
        for content in records(data):
            write_novel(lines_of(content), sys.argv[2])
    except (FormatError, UnicodeDecodeError, zlib.error) as error:
        print(f"get_texts: {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"get_texts: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
