#!/usr/bin/env python3
"""phasor eval edit and phasor reproduce pie: the fields scripts read, and what must hold for any
model."""
import csv
import io
import json
import os
import signal
import subprocess
import time

import support

MODEL = support.model("llama_quantized.gguf")
DECLARATION = os.path.join(support.HERE, "..", "..", "reproduce", "pie.json")
SMALL = ("--tokens", "300", "--documents", "1", "--next", "8", "--depths", "0.5,0.9")


class Edit(support.CliTest):
    def setUp(self):
        super().setUp()
        for name in ("a.cc", "b/c.cc"):
            lines = [f"int {name[0]}{i} = {i * i % 89};\n" for i in range(400)]
            self.write("tree/" + name, "".join(lines))
        self.tree = self.path("tree")

    def test_methods_are_compared_with_a_fresh_reading(self):
        j = self.good_json("eval", "edit", MODEL, self.tree, *SMALL, "-ctk", "f32", "-ctv", "f32",
                           "--methods", "unedited,stay,pie,behind:1,reread")
        by = {run["method"]: run for run in j["results"]}
        self.assertEqual(list(by), ["unedited", "stay", "pie", "behind:1", "reread"])
        for run in by.values():
            self.assertEqual(run["edits"], 6)
            self.assertEqual(run["predicted_tokens"], 48)
            self.assertEqual(sum(row["edits"] for row in run["by_kind"]), 6)
            self.assertEqual(sum(row["edits"] for row in run["by_distance"]), 6)
            self.assertAlmostEqual(sum(row["mean_kl"] for row in run["by_kind"]) / 3,
                                   run["mean_kl"], delta=1e-9)
        # Everything read again is a fresh reading, up to the order of float sums.
        for method in ("behind:1", "reread"):
            self.assertLess(by[method]["mean_kl"], 2e-6)
            self.assertEqual((by[method]["same_top"], by[method]["same_line"]), (1, 1))
        self.assertGreater(by["stay"]["mean_kl"], by["pie"]["mean_kl"])
        self.assertGreater(by["pie"]["mean_kl"], by["reread"]["mean_kl"])
        self.assertEqual(by["unedited"]["read"], 0)
        self.assertLess(by["pie"]["read"], by["reread"]["read"])

    def test_the_same_seed_gives_the_same_figures(self):
        def run(*flags):
            j = self.good_json("eval", "edit", MODEL, self.tree, *SMALL, "--methods", "pie", *flags)
            return j["results"][0]["mean_kl"]
        self.assertEqual(run("-s", "3"), run("-s", "3"))
        self.assertNotEqual(run("-s", "3"), run("-s", "4"))

    def test_speed_counts_what_is_read(self):
        j = self.good_json("eval", "edit", MODEL, "--documents", "0", "--speed", "200,400")
        self.assertEqual(j["results"], [])
        self.assertEqual([(r["n_tokens"], r["n_edit"], r["share"]) for r in j["speed"]],
                         [(200, 2, 0), (200, 2, 0.05), (200, 2, 0.15),
                          (400, 4, 0), (400, 4, 0.05), (400, 4, 0.15)])
        self.assertEqual(j["speed"][3]["n_read"], 5)
        self.assertGreater(j["speed"][3]["speedup"], 0)

    def test_tables_and_files_hold_the_same_report(self):
        flags = ("eval", "edit", MODEL, self.tree, *SMALL, "--methods", "stay,pie")
        out = self.good(*flags, "-o", "csv", "--save", self.path("r.json")).stdout.decode()
        rows = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual({row["method"] for row in rows}, {"stay", "pie"})
        with open(self.path("r.json"), encoding="utf-8") as file:
            saved = json.load(file)
        self.assertAlmostEqual(float(rows[0]["mean KL"]), saved["results"][0]["mean_kl"],
                               delta=1e-6)
        out = self.good(*flags, "-o", "md").stdout.decode()
        self.assertIn("| method |", out)
        self.assertIn("KL insert", out)

    def test_bad_input_is_one_clear_error(self):
        self.fails("eval", "edit", MODEL, self.path("nope"), says="nope")
        self.fails("eval", "edit", MODEL, self.tree, "--tokens", "100000", says="at least")
        self.fails("eval", "edit", MODEL, self.tree, "--methods", "pie:0.5", says="pie:0.5")
        self.fails("eval", "edit", MODEL, self.write("x", b"a\0b"), says="text files")
        self.fails("eval", "edit", MODEL, self.tree, "-c", "100", says="--tokens", code=2)

    def test_ctrl_c_stops_it_with_one_line(self):
        process = subprocess.Popen(
            [support.PROGRAM, "eval", "edit", MODEL, self.tree, "--documents", "5000", "-t", "1",
             "--cpu-level", "scalar"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=support.TIMEOUT_S)
        self.assertEqual((process.returncode, out), (1, b""))
        self.assertEqual(error.decode().count("phasor: error: "), 1)


class ReproducePie(support.CliTest):
    def test_every_claim_gets_a_verdict_that_follows_from_the_figures(self):
        with open(DECLARATION, encoding="utf-8") as file:
            declared = json.load(file)
        tree = self.write("a.cc", "".join(f"int v{i} = {i * i % 89};\n" for i in range(900)))
        flags = ("reproduce", "pie", "-m", MODEL, "--text", tree, "--max-tokens", "300",
                 "--quick-speed")
        j = json.loads(self.good(*flags, "--json").stdout)
        self.assertEqual([c["claim"] for c in j["claims"]], [c["id"] for c in declared["claims"]])
        quality = j["details"]["quality"]
        self.assertEqual([q["method"] for q in quality], declared["settings"]["methods"])
        kl = {q["method"]: q["mean_kl"] for q in quality}
        self.assertEqual(kl, j["measured"]["mean_kl"])
        self.assertEqual([r["share"] for r in j["details"]["speed"]],
                         declared["settings"]["speed_shares"])
        verdict = {c["claim"]: c["verdict"] for c in j["claims"]}
        expected = ("null" if kl["stay"] <= 0.001 else
                    "reproduced" if kl["pie"] <= 0.1 * kl["stay"] else "not reproduced")
        self.assertEqual(verdict["positions are what matters"], expected)
        out = self.good(*flags, "-o", "md").stdout.decode()
        for claim in declared["claims"]:
            self.assertIn(claim["paper"], out)


if __name__ == "__main__":
    support.main()
