#!/usr/bin/env python3
"""Compares phasor with other engines on this machine: same file, same threads, same run.

Rounds are interleaved (each engine once per round, in turning order), every figure is tokens per
second, and what counts is the median of the per-round ratios: absolute figures of shared machines
move by a factor of two. Before any timing the perplexity of a short text is compared, because an
engine with wrong numbers is no yardstick.

    bench/peers/compare.py                                  # default model, llama-cpp-python
    bench/peers/compare.py -m model.gguf -t 4 -d 0,4096,16384 -ctk polar -ctv q4_0h
    bench/peers/compare.py --llama-bench path/to/llama-bench --no-llama-cpp-python
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Public domain (L. Carroll, 1865).
CHECK_TEXT = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do: once or twice she had peeped into the book her sister was reading, but it had "
    'no pictures or conversations in it, "and what is the use of a book," thought Alice "without '
    'pictures or conversations?"\n')
# Engines round activations differently; the same weights agree within a few per cent on 70 tokens.
MAX_PPL_RATIO = 1.05


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="GGUF file; default: the default model")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-p", "--n-prompt", type=int, default=512, help="prefill; 0: none")
    parser.add_argument("-n", "--n-gen", type=int, default=32, help="decode; 0: none")
    parser.add_argument("-d", "--n-depth", default="0,4096", help="depths of decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-ctk", "--type-k", help="phasor's key type; default: its default")
    parser.add_argument("-ctv", "--type-v", help="phasor's value type; default: its default")
    parser.add_argument("--peer-type-k", default="f16")
    parser.add_argument("--peer-type-v", default="f16")
    parser.add_argument("--peer-flash-attn", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--no-llama-cpp-python", action="store_true")
    parser.add_argument("--llama-bench", action="append", default=[], metavar="PATH",
                        help="llama-bench of llama.cpp or ik_llama.cpp; may be given more than once")
    parser.add_argument("--phasor", default=os.path.join(ROOT, "build/release/phasor"))
    parser.add_argument("--json", metavar="FILE", help="write all figures there ('-': stdout)")
    args = parser.parse_args()
    if not args.model:
        args.model = run([os.path.join(ROOT, "scripts/get_model.sh"), "--path"]).strip()
    if not os.path.isfile(args.model):
        parser.error(f"{args.model}: expected a GGUF file, found none (make model gets the default)")
    return args


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        sys.exit(f"compare: exit code {done.returncode}: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def json_rows(text):
    """The objects of a JSON array or of JSON lines; other lines are passed over."""
    try:
        rows = json.loads(text)
        return rows if isinstance(rows, list) else [rows]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def measure_name(row):
    name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return f"{name} @ d{row['n_depth']}" if row.get("n_depth") else name


class LlamaBench:
    """Anything with llama-bench's flags and JSON: llama.cpp's own tool, and `phasor bench`."""

    def __init__(self, name, command, model_flag, options, args):
        self.name, self.args = name, args
        self.base = command + model_flag + [args.model] + options + [
            "-t", str(args.threads), "-r", "1", "-o", "json"]

    def measure(self):
        rows = []
        if self.args.n_prompt:
            rows += json_rows(run(self.base + ["-p", str(self.args.n_prompt), "-n", "0", "-d", "0"]))
        if self.args.n_gen:
            rows += json_rows(run(
                self.base + ["-p", "0", "-n", str(self.args.n_gen), "-d", self.args.n_depth]))
        return {measure_name(row): row["avg_ts"] for row in rows}


class Phasor(LlamaBench):
    def __init__(self, args):
        options = []
        if args.type_k:
            options += ["-ctk", args.type_k]
        if args.type_v:
            options += ["-ctv", args.type_v]
        super().__init__("phasor", [args.phasor, "bench"], [], options, args)

    def perplexity(self, text_file):
        rows = json_rows(run([self.args.phasor, "eval", "perplexity", self.args.model, text_file,
                              "-ctk", "f16", "-ctv", "f16", "--json"]))
        return rows[0]["ppl"]


class LlamaCppPython:
    name = "llama-cpp-python"

    def __init__(self, args):
        self.args = args
        setup = os.path.join(HERE, "setup_llama_cpp_python.sh")
        done = subprocess.run([setup], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit("compare: llama-cpp-python is not there (--no-llama-cpp-python leaves it out)")
        self.base = [done.stdout.strip(), os.path.join(HERE, "llama_cpp_python_bench.py"),
                     args.model, "-t", str(args.threads), "-ctk", args.peer_type_k,
                     "-ctv", args.peer_type_v, "-fa", args.peer_flash_attn]

    def perplexity(self, text_file):
        rows = json_rows(run(self.base + ["-p", "0", "-n", "0", "--check-text", text_file]))
        return rows[0]["ppl"]

    def measure(self):
        rows = json_rows(run(self.base + ["-p", str(self.args.n_prompt), "-n", str(self.args.n_gen),
                                          "-d", self.args.n_depth]))
        return {measure_name(row): row["avg_ts"] for row in rows}


def check_numbers(phasor, peers):
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(CHECK_TEXT)
        file.flush()
        ours = phasor.perplexity(file.name)
        result = {"phasor": ours}
        print(f"perplexity of the check text, f16 cache: phasor {ours:.3f}")
        for peer in peers:
            if not hasattr(peer, "perplexity"):
                print(f"  {peer.name}: cannot be asked, its numbers are not checked")
                continue
            theirs = result[peer.name] = peer.perplexity(file.name)
            agrees = abs(math.log(theirs / ours)) <= math.log(MAX_PPL_RATIO)
            print(f"  {peer.name} {theirs:.3f}" +
                  ("" if agrees else "  WARNING: the numbers differ, the speeds may mean nothing"))
    return result


def run_rounds(engines, n_rounds):
    """[{engine: {measure: tokens per second}}], the order turning by one each round."""
    rounds = []
    for index in range(n_rounds):
        order = engines[index % len(engines):] + engines[:index % len(engines)]
        rounds.append({engine.name: engine.measure() for engine in order})
        print(f"round {index + 1} of {n_rounds} done", file=sys.stderr)
    return rounds


def summarize(rounds, peer_names):
    """Rows of (measure, peer, per-round (ours, theirs)), and their medians."""
    rows = []
    for peer in peer_names:
        for measure in rounds[0]["phasor"]:
            pairs = [(r["phasor"][measure], r[peer][measure]) for r in rounds if measure in r[peer]]
            if not pairs:
                print(f"{peer}: no figure for {measure}, left out")
                continue
            ratios = [ours / theirs for ours, theirs in pairs]
            rows.append({"measure": measure, "peer": peer,
                         "phasor_ts": [p[0] for p in pairs], "peer_ts": [p[1] for p in pairs],
                         "ratios": ratios, "median_ratio": statistics.median(ratios),
                         "median_phasor_ts": statistics.median(p[0] for p in pairs),
                         "median_peer_ts": statistics.median(p[1] for p in pairs)})
    return rows


def print_table(rows):
    print("| measure | peer | phasor t/s | peer t/s | ratio per round | median ratio |")
    print("|---|---|---:|---:|---|---:|")
    for row in rows:
        ratios = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        print(f"| {row['measure']} | {row['peer']} | {row['median_phasor_ts']:.1f} | "
              f"{row['median_peer_ts']:.1f} | {ratios} | {row['median_ratio']:.2f} |")


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")),
                    "unknown")


def main():
    args = parse_args()
    phasor = Phasor(args)
    peers = [] if args.no_llama_cpp_python else [LlamaCppPython(args)]
    for path in args.llama_bench:
        flash = {"auto": [], "on": ["-fa", "1"], "off": ["-fa", "0"]}[args.peer_flash_attn]
        peers.append(LlamaBench(path, [path], ["-m"], flash + [
            "-ctk", args.peer_type_k, "-ctv", args.peer_type_v], args))
    if not peers:
        sys.exit("compare: expected at least one peer, found none")
    print(f"{os.path.basename(args.model)}, {args.threads} threads, {cpu_name()}, "
          f"load {os.getloadavg()[0]:.1f}; phasor cache {args.type_k or 'default'} / "
          f"{args.type_v or 'default'}, peer cache {args.peer_type_k} / {args.peer_type_v}")
    if os.getloadavg()[0] > 0.5:
        print("WARNING: the machine is not idle; engines whose threads spin suffer most, and the "
              "ratios below may mean nothing")
    perplexities = check_numbers(phasor, peers)
    rounds = run_rounds([phasor] + peers, args.rounds)
    rows = summarize(rounds, [peer.name for peer in peers])
    print_table(rows)
    if args.json:
        text = json.dumps({"model": args.model, "threads": args.threads, "cpu": cpu_name(),
                           "perplexity": perplexities, "rows": rows}, indent=1)
        if args.json == "-":
            print(text)
        else:
            with open(args.json, "w", encoding="utf-8") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    main()
