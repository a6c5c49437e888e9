"""The engines that compare.py runs: one class per way to measure, one object per cache type."""
import itertools
import json
import math
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OPTIONS = ("rtr", "thp", "mqkv", "rcache", "khad", "vhad", "fa", "nofa")
# What the projects' attention on a CPU takes for keys and for values. ik_llama.cpp's bf16 needs
# AVX-512; its q5_0 and q5_1 are for GPUs.
CACHE_TYPES = {
    "llama.cpp": ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
    "ik_llama.cpp": ("f16", "q8_KV", "q8_0", "q6_0", "q4_1", "q4_0", "iq4_nl")}
# Pairs of unequal types that people use, besides every type with itself.
MIXED_PAIRS = (("f16", "q8_0"), ("q8_KV", "q8_0"), ("q8_KV", "q4_0"), ("q8_0", "q6_0"), ("q8_0", "q4_0"),
               ("q8_0", "iq4_nl"), ("q6_0", "q4_0"))
DEFAULT = "f16:f16, default flash attention"


class EngineFailed(SystemExit):
    """An engine's program ended with an error; ends compare.py unless it is caught."""


def run(command, stderr=None):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr or subprocess.PIPE,
                          text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise EngineFailed(f"compare: exit code {done.returncode}: {' '.join(command)}\n"
                           f"{(done.stderr or '')[-2000:]}")
    return done.stdout


def json_rows(text):
    """The objects of a JSON array or of lines that are nothing else; other text is passed over."""
    try:
        rows = json.loads(text)
        return rows if isinstance(rows, list) else [rows]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class CacheType:
    """"K:V" or "K:V+option+...". ik_llama.cpp's: rtr repacks weights at load, thp puts them on huge
    pages, mqkv merges their matrices, rcache keeps rotary angles, khad and vhad rotate keys and
    values. Of all peers: fa and nofa force flash attention on or off. "default": what a peer does
    when it is told nothing."""

    def __init__(self, text):
        self.is_default = text == "default"
        if self.is_default:
            self.text, self.k, self.v, self.options = DEFAULT, "f16", "f16", []
            return
        types, *self.options = text.split("+")
        self.text = text
        self.k, _, self.v = types.partition(":")
        if not self.k or not self.v or any(o not in OPTIONS for o in self.options):
            sys.exit(f"compare: cache types: expected K:V or K:V+{'|'.join(OPTIONS)}, found {text}")

    @property
    def flash(self):
        return "on" if "fa" in self.options else "off" if "nofa" in self.options else "default"

    def only(self, allowed, engine):
        for option in self.options:
            if option not in allowed:
                sys.exit(f"compare: {engine}: expected none of the options of {self.text}")


def project_of(build):
    """Which project a build folder belongs to."""
    try:
        with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as file:
            return "ik_llama.cpp" if "GGML_IQK_MUL_MAT" in file.read() else "llama.cpp"
    except OSError:
        sys.exit(f"compare: {build}: expected a CMake build folder, found no CMakeCache.txt")


def peer_types(text, path):
    """The cache types that `text` names: K:V+option..., "default", "all" (every type of a build
    folder with itself, and some mixed pairs) or "pairs" (every type of keys with every type of
    values); options behind "all" and "pairs" are those of each."""
    out = []
    for part in text.split(","):
        word, *options = part.split("+")
        if word not in ("all", "pairs"):
            out.append(part)
            continue
        if not os.path.isdir(path):
            sys.exit(f"compare: {path}: expected a build folder for the cache types {part}")
        known = CACHE_TYPES[project_of(path)]
        found = [(k, v) for k, v in itertools.product(known, known)
                 if word == "pairs" or k == v or (k, v) in MIXED_PAIRS]
        out += ["+".join([f"{k}:{v}"] + options) for k, v in found]
    return [CacheType(part) for part in dict.fromkeys(out)]


def sample(row):
    """What one timed run tells: tokens per second, and milliseconds of the fastest step. Of a
    prefill the whole is one step, given per token; tools that time decode steps only all together
    have no fastest one."""
    fastest = row.get("min_step_ns") or min(row.get("step_ns") or [0]) or None
    if row["n_prompt"]:
        fastest = row["avg_ns"] / row["n_prompt"]
    return {"ts": row["avg_ts"], "min_ms": fastest and fastest / 1e6}


class Engine:
    """measure(unit) gives {measure: sample}. Units are ("pp", tokens), ("tg", depth), or ("sweep",)
    for tools that can only do all depths in one go."""

    def __init__(self, name, cache, args):
        self.name, self.cache, self.args = name, cache, args
        self.label = f"{name} {cache.text}"

    def units(self):
        out = [("pp", n) for n in self.args.prompts]
        if self.args.n_gen:
            out += [("tg", depth) for depth in self.args.depths]
        return out

    def name_of(self, unit):
        if unit[0] == "pp":
            return f"pp{unit[1]}"
        return f"tg{self.args.n_gen}" + (f" @ d{unit[1]}" if unit[1] else "")

    def measure(self, unit):
        flags = (["-p", str(unit[1]), "-n", "0", "-d", "0"] if unit[0] == "pp" else
                 ["-p", "0", "-n", str(self.args.n_gen), "-d", str(unit[1])])
        return {self.name_of(unit): sample(json_rows(run(self.command + flags))[-1])}

    perplexity = None  # a method where the engine can be asked


class Phasor(Engine):
    def __init__(self, cache, args):
        super().__init__("phasor", cache, args)
        cache.only((), "phasor")
        types = [] if cache.k == "default" else ["-ctk", cache.k, "-ctv", cache.v]
        self.command = [args.phasor, "bench", args.model, "-t", str(args.threads), "-r", "1", "-o",
                        "json", "--fill", "prefill" if args.prefill else "synthetic"] + types

    def perplexity(self, text_file):
        rows = json_rows(run([self.args.phasor, "eval", "perplexity", self.args.model, text_file,
                              "-ctk", "f16", "-ctv", "f16", "--json"]))
        return rows[0]["ppl"] if "ppl" in rows[0] else rows[0]["results"][0]["ppl"]


class LlamaCppPython(Engine):
    def __init__(self, cache, args):
        super().__init__("llama-cpp-python", cache, args)
        cache.only(("fa", "nofa"), self.name)
        setup = os.path.join(HERE, "setup_llama_cpp_python.sh")
        done = subprocess.run([setup], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit("compare: llama-cpp-python is not there (--no-llama-cpp-python leaves it out)")
        self.base = [done.stdout.strip(), os.path.join(HERE, "llama_cpp_python_bench.py"),
                     args.model, "-t", str(args.threads)]
        self.command = self.base + [
            "-ctk", cache.k, "-ctv", cache.v, "-fa", cache.flash.replace("default", "auto"),
            "--fill", "prefill" if args.prefill else "copy"]

    def perplexity(self, text_file):
        return json_rows(run(self.base + ["-p", "0", "-n", "0", "--check-text", text_file]))[0]["ppl"]


class DepthBench(Engine):
    """A build of llama.cpp or ik_llama.cpp through depth_bench.cc."""

    def __init__(self, name, build, cache, args):
        super().__init__(name, cache, args)
        program = run([os.path.join(HERE, "build_depth_bench.sh"), build]).strip()
        self.base = [program, "-m", args.model, "-t", str(args.threads)]
        flags = {"rtr": "--repack", "thp": "--huge-pages", "mqkv": "--merge-qkv",
                 "rcache": "--rope-cache", "khad": "--k-hadamard", "vhad": "--v-hadamard"}
        self.command = self.base + [
            "-ctk", cache.k, "-ctv", cache.v, "-fa", cache.flash, "--fill",
            "prefill" if args.prefill else "copy"] + [flags[o] for o in cache.options if o in flags]

    def perplexity(self, text_file):
        return json_rows(run(self.base + ["-p", "0", "-n", "0", "--check-text", text_file]))[0]["ppl"]


class LlamaBench(Engine):
    """llama-bench itself: every depth is really computed, in every round. llama.cpp's has -d;
    ik_llama.cpp's has -gp instead, which times the generation behind a prompt."""

    def __init__(self, name, path, cache, args):
        super().__init__(name, cache, args)
        cache.only(("fa", "nofa", "rtr"), name)
        usage = subprocess.run([path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, check=False).stdout
        self.has_depth = "--n-depth" in usage
        if not self.has_depth and "-gp" not in usage:
            sys.exit(f"compare: {path}: expected a llama-bench with -d or -gp, found neither")
        flash = {"default": [], "on": ["-fa", "1"], "off": ["-fa", "0"]}[cache.flash]
        self.command = [path, "-m", args.model, "-t", str(args.threads), "-r", "1", "-o", "json",
                        "-ctk", cache.k, "-ctv", cache.v] + flash + (
                            ["-rtr", "1"] if "rtr" in cache.options else [])

    def measure(self, unit):
        if self.has_depth:
            return super().measure(unit)
        if unit[0] == "pp":
            flags = ["-p", str(unit[1]), "-n", "0"]
        elif unit[1] == 0:
            flags = ["-p", "0", "-n", str(self.args.n_gen)]
        else:
            flags = ["-p", "0", "-n", "0", "-gp", f"{unit[1]},{self.args.n_gen}"]
        row = json_rows(run(self.command + flags))[-1]
        if unit[0] == "tg":  # -gp's row names the depth as its prompt
            row["n_prompt"] = 0
        return {self.name_of(unit): sample(row)}


class SweepBench(Engine):
    """ik_llama.cpp's llama-sweep-bench: one prefill to the largest depth, stopping at the others."""

    def __init__(self, name, path, cache, args):
        super().__init__(name, cache, args)
        cache.only(("rtr", "khad", "vhad"), name)
        step = math.gcd(*args.depths) or 512
        batch = math.gcd(step, 512)
        if batch < 64:
            sys.exit(f"compare: {name}: expected depths that are multiples of 64, found {args.depths}")
        flags = {"rtr": "-rtr", "khad": "-khad", "vhad": "-vhad"}
        self.command = [path, "-m", args.model, "-t", str(args.threads), "-ctk", cache.k, "-ctv",
                        cache.v, "-fa", "on", "-c", str(max(args.depths) + max(batch, args.n_gen)),
                        "-ub", str(batch), "-n", str(args.n_gen), "--sweep-stride",
                        str(step // batch), "--output-format", "jsonl"] + [
                            flags[o] for o in cache.options]

    def units(self):
        return [("sweep",)] if self.args.n_gen else []

    def measure(self, unit):
        out = {}
        for row in json_rows(run(self.command, subprocess.STDOUT)):  # its rows go to stderr
            if row.get("n_kv") in self.args.depths:
                name = self.name_of(("tg", row["n_kv"]))
                out[name] = {"ts": row["speed_tg"], "min_ms": None}
        if len(out) < len(self.args.depths):
            sys.exit(f"compare: {self.name}: expected depths {self.args.depths}, found {list(out)}")
        return out


def name_and_path(spec):
    """NAME=PATH or PATH, which then tells the name."""
    name, separator, path = spec.partition("=")
    if not separator:
        name, path = "", spec
    return name or re.sub(r"/build(/bin.*)?/?$", "", path).rstrip("/").split("/")[-1], path


def peer_of(name, path, cache, args):
    """A build folder, a llama-bench or a llama-sweep-bench."""
    if os.path.isdir(path):
        return DepthBench(name, path, cache, args)
    if not os.access(path, os.X_OK):
        sys.exit(f"compare: {path}: expected a program or a build folder, found none")
    if "sweep" in os.path.basename(path):
        return SweepBench(name + " (sweep)", path, cache, args)
    return LlamaBench(name + " (llama-bench)", path, cache, args)
