#!/usr/bin/env python3
"""Fits the levels of q4_head and q3_head (src/kvcodec/int_codec_levels.cc) to Gaussian rows.

Rows of 64 and 128 Gaussian numbers, as a Hadamard rotation makes them; each row takes the book,
sign and size of scale with the least squared error, each number its nearest level; then every level
moves to the mean of what it stands for, weighted by the squared scale (Lloyd 1982). Prints the
levels as whole numbers up to 63 and their squared error on fresh rows, over the variance.

Needs numpy. Takes minutes. Not run by the build.
"""
import numpy as np

TOP = 63


def mirrored(books):
    return [np.sort(b) for book in books for b in (book, -book)]


def choose(rows, books, sizes):
    """Least squared error, book and scale of each row."""
    top = np.abs(rows).max(1, keepdims=True)
    error = np.full(len(rows), np.inf)
    which = np.zeros(len(rows), int)
    scale = np.zeros(len(rows))
    for k, book in enumerate(books):
        edges = (book[1:] + book[:-1]) / 2
        for size in sizes:
            d = top * size
            e = ((rows - d * book[np.searchsorted(edges, rows / d)]) ** 2).sum(1)
            better = e < error
            error[better], which[better], scale[better] = e[better], k, d[better, 0]
    return error, which, scale


def fit(books, sizes, steps):
    rng = np.random.default_rng(7)
    samples = [rng.standard_normal((2000, 64)), rng.standard_normal((1000, 128))]
    books = [np.sort(np.array(b) / TOP) for b in books]
    for _ in range(steps):
        total = [np.zeros(len(b)) for b in books]
        weight = [np.zeros(len(b)) for b in books]
        for rows in samples:
            _, which, scale = choose(rows, mirrored(books), sizes)
            for k, book in enumerate(books):
                edges = (book[1:] + book[:-1]) / 2
                for sign, at in ((1, 2 * k), (-1, 2 * k + 1)):
                    mine = which == at
                    d = scale[mine][:, None]
                    y = sign * rows[mine]
                    code = np.searchsorted(edges, y / d).ravel()
                    total[k] += np.bincount(code, (y * d).ravel(), len(book))
                    square = np.broadcast_to(d * d, y.shape).ravel()
                    weight[k] += np.bincount(code, square, len(book))
        books = [np.sort(np.where(w > 0, t / np.maximum(w, 1e-9), b))
                 for b, t, w in zip(books, total, weight)]
    return books


def report(name, books, sizes):
    top = max(np.abs(b).max() for b in books)
    whole = [np.round(b * TOP / top).astype(int) for b in books]
    print(f"{name}: kMaxLevel * scale / max|x| from {sizes[0] * top:.3f} to {sizes[-1] * top:.3f}")
    for book in whole:
        print("    " + ", ".join(str(v) for v in book) + ",")
    rng = np.random.default_rng(8)
    for dim in (64, 128):
        rows = rng.standard_normal((2000, dim))
        error = choose(rows, mirrored([b * top / TOP for b in whole]), sizes)[0]
        print(f"  rows of {dim}: squared error {error.mean() / dim:.5f} of the variance")


def main():
    sizes = [0.70 + 0.045 * i for i in range(8)]
    start = [np.arange(-8, 8) * 8 + 0.0, np.arange(-8, 8) * 7 + 3.5]
    report("4 bits", fit(start, sizes, 30), sizes)
    sizes = [0.50 + 0.072 * i for i in range(8)]
    start = [np.array([-4, -3, -2, -1, 0, 1, 2, 3]) * f + o
             for f, o in ((17, 0), (14, 7), (15, -2), (12, 6))]
    report("3 bits", fit(start, sizes, 40), sizes)


if __name__ == "__main__":
    main()
