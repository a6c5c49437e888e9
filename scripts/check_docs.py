#!/usr/bin/env python3
"""Checks that the documents speak of things that exist: relative links, paths in backticks, and
`make` targets in README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md.

A path with <placeholders> is skipped, one with * or {a,b} must match something, and build outputs
(build/...) are not looked up.
"""
import argparse
import glob
import os
import re
import sys

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
PATH_TOPS = ("include/", "src/", "apps/", "tests/", "scripts/", "cmake/", "docs/", "bench/",
             "fuzz/", "share/", "reproduce/", ".ci/")
PATH_CHARS = re.compile(r"^[\w./*{},-]+$")
MAKE = re.compile(r"(?:^|[`$&;]\s*)make ([a-z][a-z0-9-]*)", re.MULTILINE)


def list_documents(root):
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        if os.path.isfile(os.path.join(root, name)):
            yield name
    for folder, _, names in os.walk(os.path.join(root, "docs")):
        for name in sorted(names):
            if name.endswith(".md"):
                yield os.path.relpath(os.path.join(folder, name), root)


def expand_braces(path):
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [p for part in match.group(1).split(",")
            for p in expand_braces(path[:match.start()] + part + path[match.end():])]


def exists(root, path):
    return all(glob.glob(os.path.join(root, p)) for p in expand_braces(path))


def paths_in(text):
    """Words of inline code that look like paths of this tree."""
    for code in CODE.findall(text):
        for word in code.split():
            word = re.sub(r":\d+$", "", word.rstrip(".,;:"))
            if word.startswith(PATH_TOPS) and PATH_CHARS.match(word):
                yield word


def make_targets(root):
    with open(os.path.join(root, "Makefile"), encoding="utf-8") as file:
        return set(re.findall(r"^([a-z][a-z0-9-]*):", file.read(), re.MULTILINE))


def check(root, document, targets):
    with open(os.path.join(root, document), encoding="utf-8") as file:
        text = file.read()
    for target in MAKE.findall(text):
        if target not in targets:
            yield f"make {target}: no such target"
    prose = FENCE.sub("", text)
    for link in LINK.findall(prose):
        if re.match(r"[a-z]+:", link) or link.startswith("#"):
            continue
        path = os.path.join(os.path.dirname(document), link.split("#")[0])
        if not os.path.exists(os.path.join(root, path)):
            yield f"link to {link}: no such file"
    for path in paths_in(prose):
        if not exists(root, path):
            yield f"`{path}`: no such file or folder"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    args = parser.parse_args()
    targets = make_targets(args.root)
    n_documents = n_errors = 0
    for document in list_documents(args.root):
        n_documents += 1
        for error in check(args.root, document, targets):
            print(f"{document}: {error}")
            n_errors += 1
    print(f"docs: {n_documents} documents, {n_errors} errors")
    return 1 if n_errors or n_documents == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
