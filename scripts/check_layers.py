#!/usr/bin/env python3
"""Checks that includes point one way only, after the ranks in scripts/layers.txt.

Rules: a file includes files of lower rank or of its own folder; project files in quotes, everything
else in angle brackets; vector intrinsics only in src/simd/ and in files that say so in their name;
no include cycles. Tests (*_test.cc, *_bench.cc, *_test_util.*) may include anything. For an offence
in a header the chain from a source file that pulls it in is printed. Exit code 1 on any offence.
"""
import argparse
import os
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TEST_FILE = re.compile(r"_(test|bench)(_util)?\.(cc|h)$")
INTRINSICS = re.compile(r"^(x86intrin|[a-z]+mmintrin|arm_neon|amxintrin)\.h$")
INTRINSICS_ALLOWED = re.compile(r"^src/simd/|_(kernel|avx2|avx512|amx|neon)[a-z0-9_]*(-inl)?\.(cc|h)$")
SEARCH_PATHS = ("src", "include", "apps")


def read_ranks(path):
    ranks = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            fields = line.split("#")[0].split()
            if fields:
                ranks[fields[0]] = float(fields[1])
    return ranks


def list_sources(root, ranks):
    for top in sorted({folder.split("/")[0] for folder in ranks}):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith((".h", ".cc")):
                    yield os.path.relpath(os.path.join(folder, name), root)


def folder_of(path, ranks):
    """The ranked folder a file lies in, or None."""
    folder = os.path.dirname(path)
    while folder and folder not in ranks:
        folder = os.path.dirname(folder)
    return folder or None


def resolve(root, includer, name):
    """Path of an included project file relative to the root, or None."""
    for base in SEARCH_PATHS + (os.path.dirname(includer),):
        path = os.path.normpath(os.path.join(base, name))
        if os.path.isfile(os.path.join(root, path)):
            return path
    return None


class Checker:
    def __init__(self, root, ranks):
        self.root, self.ranks = root, ranks
        self.edges = {}  # file -> [(line number, included file)]
        self.offences = []

    def report(self, path, line, text):
        self.offences.append(f"{path}:{line}: {text}")

    def read(self, path):
        edges = self.edges.setdefault(path, [])
        is_test = bool(TEST_FILE.search(path))
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                match = INCLUDE.match(text)
                if not match:
                    continue
                quote, name = match.groups()
                target = resolve(self.root, path, name)
                if quote == "<":
                    self.check_angle(path, number, name, target)
                elif target:
                    edges.append((number, target))
                elif not is_test:
                    self.report(path, number, f'"{name}" is no file of this project: third-party '
                                "headers go in angle brackets")

    def check_angle(self, path, number, name, target):
        if target:
            self.report(path, number, f"<{name}> is a file of this project: use quotes")
        if INTRINSICS.match(name) and not INTRINSICS_ALLOWED.search(path):
            self.report(path, number, f"<{name}> outside src/simd/ and *_kernel/_avx2/_avx512/_neon files")

    def check_ranks(self):
        for path, edges in self.edges.items():
            if TEST_FILE.search(path):
                continue
            own = folder_of(path, self.ranks)
            if own is None:
                self.report(path, 1, "its folder has no rank in scripts/layers.txt")
                continue
            for number, target in edges:
                self.check_edge(path, own, number, target)

    def check_edge(self, path, own, number, target):
        other = folder_of(target, self.ranks)
        if TEST_FILE.search(target):
            self.report(path, number, f"includes the test file {target}")
        elif other is None:
            self.report(path, number, f"{target}: its folder has no rank in scripts/layers.txt")
        elif other != own and self.ranks[other] >= self.ranks[own]:
            kind = "a sibling" if self.ranks[other] == self.ranks[own] else "a higher layer"
            chain = " -> ".join(self.chain_to(path) + [target])
            self.report(path, number, f"{own} ({self.ranks[own]:g}) includes {kind}, "
                        f"{other} ({self.ranks[other]:g}): {chain}")

    def chain_to(self, header):
        """A shortest include chain from some .cc file down to the header."""
        parents = {}
        for path, edges in self.edges.items():
            for _, target in edges:
                parents.setdefault(target, []).append(path)
        queue, seen = [[header]], {header}
        while queue:
            chain = queue.pop(0)
            if chain[0].endswith(".cc"):
                return chain
            for parent in parents.get(chain[0], []):
                if parent not in seen:
                    seen.add(parent)
                    queue.append([parent] + chain)
        return [header]

    def check_cycles(self):
        done, stack = set(), []

        def visit(path):
            if path in stack:
                cycle = stack[stack.index(path):] + [path]
                self.report(path, 1, "include cycle: " + " -> ".join(cycle))
                return
            if path in done:
                return
            stack.append(path)
            for _, target in self.edges.get(path, []):
                visit(target)
            stack.pop()
            done.add(path)

        for path in list(self.edges):
            visit(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--root", default=os.path.dirname(here))
    parser.add_argument("--layers", default=os.path.join(here, "layers.txt"))
    args = parser.parse_args()
    checker = Checker(args.root, read_ranks(args.layers))
    for path in list_sources(args.root, checker.ranks):
        checker.read(path)
    checker.check_ranks()
    checker.check_cycles()
    for offence in checker.offences:
        print(offence)
    print(f"layers: {len(checker.edges)} files, {len(checker.offences)} offences")
    return 1 if checker.offences or not checker.edges else 0


if __name__ == "__main__":
    sys.exit(main())
