#!/usr/bin/env python3
"""bench/peers/compare.py against pretended peers whose speed is known."""
import json
import os
import subprocess
import sys
import xml.etree.ElementTree

import support

PEERS = os.path.join(support.HERE, "..", "..", "bench", "peers")
MODEL = support.model("llama_quantized.gguf")
# A llama-bench that notes its arguments and answers from a formula: 1000 tokens per second for
# prefill, and for decode SPEED / (1 + depth / 32).
LLAMA_BENCH = '''#!{python}
import json, os, sys
if "--help" in sys.argv:
    print("options: {depth_flag}")
    sys.exit(0)
with open(os.environ["CALLS"], "a") as file:
    file.write("{name} " + " ".join(sys.argv[1:]) + "\\n")
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if flags.get("-ctk") == "broken":
    sys.exit("no such cache")
depth, n_gen = int(flags.get("-d", 0)), int(flags["-n"])
row = {{"n_prompt": int(flags["-p"]), "n_gen": n_gen, "n_depth": depth}}
if "-gp" in flags:
    depth, n_gen = map(int, flags["-gp"].split(","))
    row = {{"n_prompt": depth, "n_gen": n_gen, "test": "tg@pp"}}
ts = {speed} / (1 + depth / 32) if n_gen else 1000
n = n_gen or row["n_prompt"]
print(json.dumps([dict(row, avg_ts=ts, avg_ns=n * 1e9 / ts, samples_ns=[n * 1e9 / ts])]))
'''
SWEEP_BENCH = '''#!{python}
import sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("main: n_kv_max = 1")
for n_kv in range(0, int(flags["-c"]), int(flags["-ub"]) * int(flags["--sweep-stride"])):
    row = '{{"pp": 64, "tg": 4, "n_kv": %d, "t_tg": 1, "speed_tg": %f }}' % (n_kv, 50.0)
    print(row, file=sys.stderr)  # as the real one does
'''


class Compare(support.CliTest):
    def fake(self, file_name, script, **values):
        path = self.write(file_name, script.format(python=sys.executable, **values))
        os.chmod(path, 0o755)
        return path

    def compare(self, *flags, code=0):
        done = subprocess.run(
            [sys.executable, os.path.join(PEERS, "compare.py"), "-m", MODEL, "--phasor",
             support.PROGRAM, "--no-llama-cpp-python", "-t", "1", *map(str, flags)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=support.TIMEOUT_S, text=True,
            env={**self.env, "CALLS": self.path("calls"), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def two_peers(self):
        slow = self.fake("llama-bench", LLAMA_BENCH, name="slow", depth_flag="--n-depth", speed=50)
        fast = self.fake("ik/llama-bench", LLAMA_BENCH, name="fast", depth_flag="-gp", speed=100)
        return "--peer", f"slow={slow}", "--peer", f"fast={fast}"

    def test_ratios_are_those_to_the_best_peer(self):
        out = self.path("out.json")
        self.compare(*self.two_peers(), "-d", "0,64", "-n", "4", "-p", "32", "--rounds", "3",
                     "--types", "f16:f16,q8_0:q8_0", "--peer-types", "q4_0:q4_0", "--json", out)
        with open(out, encoding="utf-8") as file:
            result = json.load(file)
        rows = {(r["measure"], r["engine"]): r for r in result["rows"]}
        fast, slow = ("fast (llama-bench) q4_0:q4_0", "slow (llama-bench) q4_0:q4_0")
        self.assertEqual({m for m, _ in rows}, {"pp32", "tg4", "tg4 @ d64"})
        self.assertAlmostEqual(rows["tg4 @ d64", fast]["median_ts"], 100 / 3)
        self.assertAlmostEqual(rows["tg4 @ d64", slow]["median_ts"], 50 / 3)
        # Pretended peers tell no single steps of decode; a prefill is one step, told per token.
        self.assertIsNone(rows["tg4 @ d64", slow]["min_ms"])
        self.assertAlmostEqual(rows["pp32", slow]["min_ms"], 1)
        for ratio in result["ratios"]:
            ours = rows[ratio["measure"], ratio["phasor"]]
            self.assertEqual(len(ours["ts"]), 3)
            if ratio["measure"] == "pp32":  # both pretend the same speed
                self.assertAlmostEqual(ratio["min_ratio"], 1 / ours["min_ms"])
            else:
                self.assertEqual(ratio["best_peer"], fast)
                self.assertIsNone(ratio["min_ratio"])
            best = rows[ratio["measure"], ratio["best_peer"]]
            self.assertAlmostEqual(ratio["ratios"][1], ours["ts"][1] / best["ts"][1])
            self.assertAlmostEqual(ratio["median_ratio"], sorted(ratio["ratios"])[1])
            # The fastest of four steps is at least as fast as their mean.
            self.assertLessEqual(ours["min_ms"], 1e3 / ours["best_ts"] * (1 + 1e-9))
        self.assertEqual({r["phasor"] for r in result["ratios"]},
                         {"phasor f16:f16", "phasor q8_0:q8_0"})

    def test_rounds_are_interleaved_and_flags_fit_each_tool(self):
        self.compare(*self.two_peers(), "-d", "64", "-n", "4", "-p", "0", "--rounds", "4",
                     "--peer-types", "q8_0:q4_0+fa")
        with open(self.path("calls"), encoding="utf-8") as file:
            calls = file.read().splitlines()
        self.assertEqual(sorted(call.split()[0] for call in calls), ["fast"] * 4 + ["slow"] * 4)
        # The order turns: with three engines, neither peer is always the first of the two.
        self.assertGreater(len({tuple(c.split()[0] for c in calls[i:i + 2])
                                for i in range(0, 8, 2)}), 1)
        for call in calls:
            self.assertIn("-ctk q8_0 -ctv q4_0 -fa 1", call)
            self.assertIn("-gp 64,4" if call.startswith("fast") else "-n 4 -d 64", call)

    def test_types_can_be_given_by_peer_and_defaults_have_a_table_of_their_own(self):
        out = self.path("out.json")
        done = self.compare(*self.two_peers(), "-d", "64", "-n", "4", "-p", "0", "--rounds", "2",
                            "--types", "f16:f16", "--peer-types", "q4_0:q4_0,q8_0:q8_0",
                            "--peer-types", "slow=default", "--peer-types", "slow=q8_0:q4_0",
                            "--json", out, "--no-check")
        default = "slow (llama-bench) f16:f16, default flash attention"
        with open(out, encoding="utf-8") as file:
            result = json.load(file)
        self.assertEqual([r["engine"] for r in result["rows"][1:]],
                         [default, "slow (llama-bench) q8_0:q4_0", "fast (llama-bench) q4_0:q4_0",
                          "fast (llama-bench) q8_0:q8_0"])
        with open(self.path("calls"), encoding="utf-8") as file:
            calls = [call for call in file if "-ctk f16" in call]
        self.assertEqual(len(calls), 2)  # one per round, and flash attention is left to the peer
        self.assertFalse([call for call in calls if "-fa" in call])
        best, own = result["ratios"]
        self.assertEqual((best["against"], own["against"], own["best_peer"]),
                         ("best", "default", default))
        for mine, other in zip(own["ratios"], best["ratios"]):  # slow has half the speed of fast
            self.assertAlmostEqual(mine, 2 * other)
        self.assertIn("| a peer's default |", done.stdout)

    def test_all_and_pairs_are_what_the_project_of_a_build_folder_knows(self):
        sys.path.insert(0, PEERS)
        import engines  # pylint: disable=import-outside-toplevel
        for entry, known in (("GGML_IQK_MUL_MAT:BOOL=ON", "q8_KV"), ("GGML_NATIVE:BOOL=ON", "q5_1")):
            folder = os.path.dirname(self.write(f"{known}/CMakeCache.txt", entry + "\n"))
            every = [cache.text for cache in engines.peer_types("default,all+rtr", folder)]
            self.assertEqual(every[0], engines.DEFAULT)
            self.assertIn(f"{known}:{known}+rtr", every)
            self.assertIn("q8_0:q4_0+rtr", every)
            pairs = [cache.text for cache in engines.peer_types("pairs,f16:f16", folder)]
            self.assertEqual(len(pairs), len(set(pairs)))
            self.assertLess(len(every), len(pairs))
            self.assertIn(f"q4_0:{known}", pairs)

    def test_a_sweep_gives_all_depths_and_a_plot_holds_every_line(self):
        sweep = self.fake("llama-sweep-bench", SWEEP_BENCH)
        plot = self.path("plot.svg")
        done = self.compare("--peer", f"s={sweep}", "-d", "0,128,256", "-n", "4", "-p", "0",
                            "--rounds", "1", "--types", "f16:f16", "--plot", plot, "--no-check")
        for depth in ("tg4", "tg4 @ d128", "tg4 @ d256"):
            self.assertIn(f"| {depth} | s (sweep) f16:f16 | 50.00 |", done.stdout)
        root = xml.etree.ElementTree.parse(plot).getroot()
        lines = [e for e in root.iter() if e.tag.endswith("polyline")]
        self.assertEqual([len(e.get("points").split()) for e in lines], [3, 3])
        # A peer of constant speed is a level line.
        self.assertEqual(len({p.split(",")[1] for p in lines[1].get("points").split()}), 1)

    def test_a_peer_that_fails_is_left_out(self):
        out = self.path("out.json")
        done = self.compare(*self.two_peers(), "-d", "0", "-n", "4", "-p", "0", "--rounds", "2",
                            "--peer-types", "q4_0:q4_0,broken:f16", "--json", out)
        self.assertIn("failed and is left out", done.stderr)
        self.assertEqual(done.stderr.count("no such cache"), 2)  # each peer, once
        with open(out, encoding="utf-8") as file:
            engines = {r["engine"] for r in json.load(file)["rows"]}
        self.assertEqual(len(engines), 3, engines)

    def test_what_cannot_be_measured_is_an_error(self):
        for flags, says in (((), "at least one peer"),
                            (("--peer", self.path("none")), "expected a program or a build folder"),
                            (("--peer", self.folder.name), "no CMakeCache.txt"),
                            ((*self.two_peers(), "--peer-types", "f16"), "expected K:V"),
                            ((*self.two_peers(), "--peer-types", "f16:f16+x"), "f16:f16+x"),
                            ((*self.two_peers(), "--peer-types", "all"), "expected a build folder"),
                            ((*self.two_peers(), "--peer-types", "x=f16:f16"), "found x"),
                            ((*self.two_peers(), "--peer-types", "f16:f16+khad"), "khad"),
                            ((*self.two_peers(), "--types", "f16:f16,f16:f16"), "that differ")):
            self.assertIn(says, self.compare(*flags, code=1).stderr)
        self.assertIn("found x", self.compare("-d", "x", code=2).stderr)


if __name__ == "__main__":
    support.main()
