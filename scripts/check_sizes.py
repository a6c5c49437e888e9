#!/usr/bin/env python3
"""Checks file and function sizes: a source file over 800 lines is an error unless it is listed in
scripts/sizes_allow.txt; over 450 lines, and functions over 60 lines, are warnings.

Function bodies are found by counting braces, without a parser: good enough for formatted sources.
"""
import argparse
import os
import re
import sys

MAX_FILE_LINES = 800
WARN_FILE_LINES = 450
WARN_FUNCTION_LINES = 60
FOLDERS = ("include", "src", "apps", "tests", "fuzz", "bench", "scripts", "docs")
EXTENSIONS = (".h", ".cc", ".py", ".sh")
SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")
# Comments, strings and character constants; replaced by blanks, line breaks kept. A quote between
# two hexadecimal digits separates thousands and is no character constant.
NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:\\\n|[^\n])*", re.DOTALL | re.MULTILINE)


def list_sources(root):
    for top in FOLDERS:
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith(EXTENSIONS):
                    yield os.path.relpath(os.path.join(folder, name), root)


def read_allowed(path):
    allowed = set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            entry, _, reason = line.partition("#")
            if entry.strip():
                if not reason.strip():
                    raise SystemExit(f"{path}: {entry.strip()}: expected a reason after #")
                allowed.add(entry.strip())
    return allowed


def long_functions(text):
    """Yields (first line, number of lines, head) of functions over the limit."""
    text = NOISE.sub(lambda m: "\n" * m.group().count("\n") or " ", text)
    stack = []  # (kind, line, head); kind is "scope", "function" or "other"
    line, head = 1, ""
    for char in text:
        if char == "\n":
            line += 1
        if char == "{":
            inside = any(kind == "function" for kind, _, _ in stack)
            if inside:
                kind = "other"
            elif "(" in head:
                kind = "function"
            else:
                kind = "scope" if SCOPE.search(head) else "other"
            stack.append((kind, line, " ".join(head.split())))
            head = ""
        elif char == "}":
            if stack:
                kind, first, name = stack.pop()
                if kind == "function" and line - first + 1 > WARN_FUNCTION_LINES:
                    yield first, line - first + 1, name
            head = ""
        elif char == ";":
            head = ""
        else:
            head += char


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--root", default=os.path.dirname(here))
    parser.add_argument("--allow", default=os.path.join(here, "sizes_allow.txt"))
    args = parser.parse_args()
    allowed = read_allowed(args.allow)
    n_files = n_errors = n_warnings = 0
    for path in list_sources(args.root):
        n_files += 1
        with open(os.path.join(args.root, path), encoding="utf-8") as file:
            text = file.read()
        n_lines = text.count("\n")
        if n_lines > MAX_FILE_LINES and path not in allowed:
            print(f"{path}: expected at most {MAX_FILE_LINES} lines, found {n_lines}")
            n_errors += 1
        elif n_lines > WARN_FILE_LINES:
            print(f"warning: {path}: {n_lines} lines (aim: {WARN_FILE_LINES})")
            n_warnings += 1
        if path.endswith((".h", ".cc")):
            for first, length, head in long_functions(text):
                print(f"warning: {path}:{first}: function of {length} lines "
                      f"(aim: {WARN_FUNCTION_LINES}): {head[:60]}")
                n_warnings += 1
    for path in sorted(allowed):
        if not os.path.isfile(os.path.join(args.root, path)):
            print(f"{args.allow}: {path}: expected a file, found none")
            n_errors += 1
    print(f"sizes: {n_files} files, {n_errors} errors, {n_warnings} warnings")
    return 1 if n_errors or n_files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
