#!/usr/bin/env python3
"""Compares phasor with other engines on this machine: same file, same threads, same run.

Every engine with every cache type runs each test once per round, in turning order, test by test, so
that a change of the machine's speed meets all alike. What counts is the median of the per-round
ratios to the best peer; on a busy machine also the ratio of the fastest single steps. Absolute
figures of shared machines move by a factor of two. Before any timing the perplexity of a short text
is compared, because an engine with wrong numbers is no yardstick.

    bench/peers/compare.py                                  # default model, llama-cpp-python
    bench/peers/compare.py -m model.gguf -t 4 -d 0,4096,16384 --types polar:q4_head,q4_0:q4_0
    bench/peers/compare.py -m model.gguf -d 0,32768 --no-llama-cpp-python \\
        --peer ik=path/to/ik_llama.cpp/build --peer-types ik=all \\
        --peer llama.cpp=path/to/llama.cpp/build --peer-types llama.cpp=default,q8_0:q8_0

A peer is a build folder of llama.cpp or ik_llama.cpp (its caches are then filled in seconds, see
depth_bench.cc), or a program llama-bench or llama-sweep-bench of theirs (which computes every
depth). bench/peers/README.md says more.
"""
import argparse
import json
import math
import os
import statistics
import sys
import tempfile

import engines
import plot

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Public domain (L. Carroll, 1865).
CHECK_TEXT = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do: once or twice she had peeped into the book her sister was reading, but it had "
    'no pictures or conversations in it, "and what is the use of a book," thought Alice "without '
    'pictures or conversations?"\n')
# Engines round activations differently; the same weights agree within a few per cent of the loss.
MAX_LOSS_RATIO = 1.02


def numbers(text):
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [-1]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, found {text}")
    return values


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="GGUF file; default: the default model")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-p", "--n-prompt", type=numbers, default=[512], dest="prompts",
                        help="prefill lengths; 0: none")
    parser.add_argument("-n", "--n-gen", type=int, default=32, help="decode steps; 0: none")
    parser.add_argument("-d", "--n-depth", type=numbers, default=[0, 4096], dest="depths",
                        help="depths of decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--types", help="phasor's cache types K:V,...; default: its default")
    parser.add_argument("-ctk", "--type-k", help="short for --types K:V with one pair")
    parser.add_argument("-ctv", "--type-v")
    parser.add_argument("--peer-types", action="append", default=[], metavar="[NAME=]K:V,...",
                        help="cache types of every peer, or of the one with that name (default "
                        "f16:f16); K:V+rtr and so on set options; default, all and pairs stand for "
                        "what the peer does by itself, for all types and for all pairs of them")
    parser.add_argument("--peer-type-k", default="f16", help="short for --peer-types with one pair")
    parser.add_argument("--peer-type-v", default="f16")
    parser.add_argument("--peer", "--llama-bench", action="append", default=[], dest="peers",
                        metavar="[NAME=]PATH", help="build folder, llama-bench or llama-sweep-bench "
                        "of llama.cpp or ik_llama.cpp; may be given more than once")
    parser.add_argument("--no-llama-cpp-python", action="store_true")
    parser.add_argument("--python-types", help="cache types of llama-cpp-python (default: those of "
                        "--peer-types)")
    parser.add_argument("--prefill", action="store_true",
                        help="compute every depth instead of filling the caches (minutes to hours)")
    parser.add_argument("--no-check", action="store_true", help="leave the perplexity check out")
    parser.add_argument("--phasor", default=os.path.join(ROOT, "build/release/phasor"))
    parser.add_argument("--json", metavar="FILE", help="write all figures there ('-': stdout)")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw decode time by depth")
    args = parser.parse_args()
    args.prompts = [n for n in args.prompts if n > 0]
    if args.rounds < 1 or args.threads < 1:
        parser.error("expected at least one round and one thread")
    if not args.model:
        args.model = engines.run([os.path.join(ROOT, "scripts/get_model.sh"), "--path"]).strip()
    if not os.path.isfile(args.model):
        parser.error(f"{args.model}: expected a GGUF file, found none (make model gets the default)")
    return args


def make_peers(args):
    """Every --peer with its cache types: those given for its name, or else those for all."""
    of_all, of_one = f"{args.peer_type_k}:{args.peer_type_v}", {}
    for text in args.peer_types:
        name, separator, types = text.rpartition("=")
        if separator:
            of_one[name] = f"{of_one[name]},{types}" if name in of_one else types
        else:
            of_all = types
    specs = [engines.name_and_path(spec) for spec in args.peers]
    for name in of_one:
        if name not in [known for known, _ in specs]:
            sys.exit(f"compare: --peer-types: expected the name of a peer, found {name}")
    peers = [engines.peer_of(name, path, cache, args) for name, path in specs
             for cache in engines.peer_types(of_one.get(name, of_all), path)]
    if not args.no_llama_cpp_python:
        peers += [engines.LlamaCppPython(engines.CacheType(part), args)
                  for part in (args.python_types or of_all).split(",")]
    return peers


def make_contestants(args):
    ours = args.types
    if ours is None and (args.type_k or args.type_v):
        ours = f"{args.type_k or 'polar'}:{args.type_v or 'q4_head'}"
    ours = [engines.Phasor(engines.CacheType(part), args)
            for part in (ours or "default:default").split(",")]
    peers = make_peers(args)
    if not peers:
        sys.exit("compare: expected at least one peer, found none")
    labels = [engine.label for engine in ours + peers]
    if len(set(labels)) < len(labels):
        sys.exit(f"compare: expected engines and types that differ, found {', '.join(labels)}")
    return ours, peers


def check_numbers(ours, peers):
    """{engine: perplexity}; every engine once, whatever its cache types."""
    result = {}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(CHECK_TEXT)
        file.flush()
        for engine in ours[:1] + peers:
            if engine.name in result:
                continue
            result[engine.name] = engine.perplexity and engine.perplexity(file.name)
    base = result["phasor"]
    print(f"perplexity of the check text, f16 cache: phasor {base:.3f}")
    for name, value in result.items():
        if value is None:
            print(f"  {name}: cannot be asked, its numbers are not checked")
        elif name != "phasor":
            agrees = abs(math.log(value) / math.log(base) - 1) <= MAX_LOSS_RATIO - 1
            print(f"  {name} {value:.3f}" +
                  ("" if agrees else "  WARNING: the numbers differ, the speeds may mean nothing"))
    return result


def run_rounds(contestants, n_rounds, on_round):
    """[{label: {measure: sample}}]. Within a round unit by unit, the order turning by one. on_round
    gets the rounds so far, so that a run that is cut off loses one round only."""
    units = []
    for engine in contestants:
        units += [unit for unit in engine.units() if unit not in units]
    turn, rounds, failed = 0, [], set()
    for index in range(n_rounds):
        found = {engine.label: {} for engine in contestants}
        for unit in units:
            able = [engine for engine in contestants
                    if unit in engine.units() and (engine.label, unit) not in failed]
            for engine in able[turn % len(able):] + able[:turn % len(able)]:
                try:
                    fresh = engine.measure(unit)
                except engines.EngineFailed as error:
                    if engine.name == "phasor":
                        raise
                    # A peer that cannot do it is left out, and the others are not.
                    print(f"  {engine.name_of(unit):<16} {engine.label:<40} failed and is left out: "
                          f"{error}", file=sys.stderr)
                    failed.add((engine.label, unit))
                    for past in rounds:
                        past[engine.label].pop(engine.name_of(unit), None)
                    continue
                found[engine.label].update(fresh)
                for name, figure in fresh.items():  # a long run that is cut off has told something
                    print(f"  {name:<16} {engine.label:<40} {figure['ts']:10.2f} t/s  "
                          f"{shown(figure['min_ms'], 3):>10} ms", file=sys.stderr)
            turn += 1
        rounds.append(found)
        print(f"round {index + 1} of {n_rounds} done", file=sys.stderr)
        on_round(rounds)
    return rounds


def measures_of(rounds):
    names = []
    for found in rounds[0].values():
        names += [name for name in found if name not in names]
    return names


def summarize(rounds):
    """[{measure, engine, median_ts, best_ts, min_ms}] in the order of measures and contestants."""
    rows = []
    for measure in measures_of(rounds):
        for label in rounds[0]:
            found = [r[label][measure] for r in rounds if measure in r[label]]
            if found:
                ts = [s["ts"] for s in found]
                rows.append({"measure": measure, "engine": label, "ts": ts,
                             "median_ts": statistics.median(ts), "best_ts": max(ts),
                             "min_ms": min((s["min_ms"] for s in found if s["min_ms"]),
                                           default=None)})
    return rows


def ratio_row(against, ours, best, fastest):
    """The row of one of phasor's types against `best` by speeds per round and against `fastest` by
    fastest steps; the latter may be None."""
    ratios = [a / b for a, b in zip(ours["ts"], best["ts"])]
    return {"against": against, "measure": ours["measure"], "phasor": ours["engine"], "best_peer": best["engine"],
            "ratios": ratios, "median_ratio": statistics.median(ratios),
            "fastest_peer": fastest and fastest["engine"],
            "min_ratio": fastest and fastest["min_ms"] / ours["min_ms"]}


def compare(rows, ours, peers):
    """Each of phasor's types against the best peer of each measure (by median speed for the ratios
    per round, by fastest step for the ratio of those) and, behind all of those, against every
    peer's default."""
    of_best, of_default = [], []
    our_labels, peer_labels = ([e.label for e in group] for group in (ours, peers))
    defaults = [e.label for e in peers if e.cache.is_default]
    for measure in dict.fromkeys(row["measure"] for row in rows):
        here = {row["engine"]: row for row in rows if row["measure"] == measure}
        rivals = [here[label] for label in peer_labels if label in here]
        for label in our_labels:
            if label not in here or not rivals:
                continue
            best = max(rivals, key=lambda row: row["median_ts"])
            fastest = min((row for row in rivals if row["min_ms"]), default=None,
                          key=lambda row: row["min_ms"])
            of_best.append(ratio_row("best", here[label], best, fastest))
            of_default += [ratio_row("default", here[label], here[d],
                                     here[d] if here[d]["min_ms"] else None)
                           for d in defaults if d in here]
    return of_best + of_default


def shown(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def print_tables(rows, ratios):
    print("\n| measure | engine, cache K:V | median t/s | best t/s | fastest step, ms |")
    print("|---|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['measure']} | {row['engine']} | {row['median_ts']:.2f} | "
              f"{row['best_ts']:.2f} | {shown(row['min_ms'], 3)} |")
    for against, title in (("best", "best peer"), ("default", "a peer's default")):
        found = [row for row in ratios if row["against"] == against]
        if not found:
            continue
        print(f"\n| measure | phasor | {title} | ratio per round | median ratio | fastest peer | "
              "ratio of fastest steps |")
        print("|---|---|---|---|---:|---|---:|")
        for row in found:
            per_round = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
            print(f"| {row['measure']} | {row['phasor']} | {row['best_peer']} | {per_round} | "
                  f"{row['median_ratio']:.2f} | {row['fastest_peer'] or '-'} | "
                  f"{shown(row['min_ratio'], 2)} |")


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")),
                    "unknown")


def write_whole(path, text):
    temporary = f"{path}.tmp-{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def main():
    args = parse_args()
    ours, peers = make_contestants(args)
    load = os.getloadavg()[0]
    print(f"{os.path.basename(args.model)}, {args.threads} threads, {cpu_name()}, load {load:.1f}")
    print("depths: " + ("computed by every engine" if args.prefill else
                        "phasor's caches filled with random keys and values, peers' with copies of "
                        "512 computed tokens; llama-bench and llama-sweep-bench compute them"))
    if load > 0.5:
        print("WARNING: the machine is not idle; engines whose threads spin suffer most, and the "
              "ratios below may mean nothing")
    perplexities = {} if args.no_check else check_numbers(ours, peers)
    sys.stdout.flush()

    def result_of(rounds):
        rows = summarize(rounds)
        return {"model": os.path.basename(args.model), "threads": args.threads, "cpu": cpu_name(),
                "load": load, "prefill": args.prefill, "perplexity": perplexities, "rows": rows,
                "ratios": compare(rows, ours, peers)}

    def on_round(rounds):
        if args.json and args.json != "-":
            write_whole(args.json, json.dumps(result_of(rounds), indent=1) + "\n")
    result = result_of(run_rounds(ours + peers, args.rounds, on_round))
    print_tables(result["rows"], result["ratios"])
    if args.json == "-":
        print(json.dumps(result, indent=1))
    if args.plot:
        write_whole(args.plot, plot.decode_by_depth(result["rows"], result["model"]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("compare: stopped by Ctrl-C")
