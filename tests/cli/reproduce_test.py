#!/usr/bin/env python3
"""phasor reproduce: lists the declarations, and judges every claim from what it measured."""
import json
import os

import support

# Heads of 32: every codec of the declaration can take them.
MODEL = support.model("llama_quantized.gguf")
DECLARATION = os.path.join(support.HERE, "..", "..", "reproduce", "polarquant.json")


class Reproduce(support.CliTest):
    def setUp(self):
        super().setUp()
        with open(DECLARATION, encoding="utf-8") as file:
            self.declared = json.load(file)

    def run_it(self, *flags, **options):
        return self.good("reproduce", "polarquant", "-m", MODEL, "--text", self.text_file(200),
                         "--max-tokens", "300", "--quick-speed", *flags, **options)

    def test_without_an_id_the_papers_are_listed(self):
        out = self.good("reproduce").stdout.decode()
        self.assertIn("polarquant", out)
        self.assertIn("2502.00527", out)
        self.assertIn("pie", out)

    def test_parallel_contexts_are_judged_by_their_own_figures(self):
        j = json.loads(self.good("reproduce", "ape", "-m", MODEL, "--max-tokens", "300",
                                 "--quick-speed", "--json").stdout)
        verdict = {c["claim"]: c["verdict"] for c in j["claims"]}
        self.assertEqual(len(verdict), 8)
        # 300 tokens cannot show what happens at 128k.
        self.assertEqual(verdict["28 times the prefill at 128k"], "null")
        self.assertEqual(verdict["4.5 times end to end at 128k"], "null")
        for task, claim in (("lookup", "half of the gap, retrieval"),
                            ("shots", "half of the gap, many shots")):
            row = {q["method"]: q for q in j["details"]["quality"] if q["task"] == task}
            gap = row["sequential"]["logprob"] - row["naive"]["logprob"]
            expected = ("null" if gap <= 0.05 else
                        "reproduced" if row["ape"]["recovered"] >= 0.5 else "not reproduced")
            self.assertEqual(verdict[claim], expected)

    def test_every_claim_gets_a_verdict_that_follows_from_the_figures(self):
        j = json.loads(self.run_it("--json").stdout)
        self.assertEqual([c["claim"] for c in j["claims"]],
                         [c["id"] for c in self.declared["claims"]])
        self.assertEqual([q["type_k"] for q in j["quality"]],
                         self.declared["quality"]["key_types"])
        kl = {q["type_k"]: q["mean_kl"] for q in j["quality"]}
        self.assertLess(kl["q8_0"], kl["q4_0"])
        self.assertGreater(kl["polar33_cut0"], 0)
        verdict = {c["claim"]: c["verdict"] for c in j["claims"]}
        self.assertLessEqual(set(verdict.values()), {"reproduced", "not reproduced", "null"})
        ratio = kl["polar44"] / kl["polar44_cut0"]
        expected = ("reproduced" if ratio < 0.95 else
                    "null" if ratio <= 1.05 else "not reproduced")
        self.assertEqual(verdict["beyond the paper: cut at the largest gap"], expected)
        for row in j["speed"]:
            self.assertGreater(row["stream_ns"], 0)
            if row["type_k"] == "f16":
                self.assertEqual(row["stream_speedup"], 1)

    def test_the_text_form_says_the_papers_claim_and_the_finding(self):
        out = self.run_it("-o", "md").stdout.decode()
        for claim in self.declared["claims"]:
            self.assertIn(claim["paper"], out)
            self.assertIn(claim["id"] + ": ", out)
        self.assertIn("| polar44_cut0 |", out)

    def test_experiments_judge_their_claims_by_what_they_measured(self):
        text = self.text_file(200)
        for name in ("anchor", "uniencoder", "gpe", "v2pe"):
            with open(os.path.join(support.HERE, "..", "..", "reproduce", name + ".json"),
                      encoding="utf-8") as file:
                declared = json.load(file)
            j = json.loads(self.good("reproduce", name, "-m", MODEL, "--text", text, "--quick",
                                     "--json").stdout)
            self.assertEqual([c["claim"] for c in j["claims"]],
                             [c["id"] for c in declared["claims"]])
            for claim, verdict in zip(declared["claims"], j["claims"]):
                def holds(condition):
                    value = j["measured"][condition["metric"]][condition["of"]]
                    if "over" in condition:
                        value /= j["measured"][condition["metric"]][condition["over"]]
                    return (condition.get("at_least", value) <= value
                            <= condition.get("at_most", value))
                null = bool(claim["null_if"]) and all(map(holds, claim["null_if"]))
                good = all(map(holds, claim["reproduced_if"]))
                self.assertEqual(verdict["verdict"], "null" if null else
                                 "reproduced" if good else "not reproduced", verdict)
            for table in j["tables"]:
                self.assertTrue(table["rows"])
                for row in table["rows"]:
                    self.assertEqual(len(row), len(table["columns"]))

    def test_experiments_hold_what_is_exact_on_any_model(self):
        text = self.text_file(200)
        quick = ("-m", MODEL, "--text", text, "--quick", "--json")
        anchor = json.loads(self.good("reproduce", "anchor", *quick).stdout)["measured"]
        self.assertLess(anchor["difference"]["forks"], 1e-5)
        self.assertEqual(anchor["pairs"]["anchor"], anchor["pairs"]["formula"])
        self.assertGreater(anchor["largest_drift"]["bf16_ids"], 0.3)
        self.assertLess(anchor["largest_drift"]["turns"], 1e-5)
        ranked = json.loads(self.good("reproduce", "uniencoder", *quick).stdout)["measured"]
        self.assertLess(ranked["difference"]["separate"], 1e-4)
        self.assertLess(ranked["difference"]["reversed"], 1e-4)
        streams = json.loads(self.good("reproduce", "gpe", *quick).stdout)["measured"]
        self.assertLess(streams["difference"]["streaming"], 1e-5)
        out = self.good("reproduce", "v2pe", "-o", "md").stdout.decode()
        self.assertIn("steps of 1/256 reach a million: reproduced", out)

    def test_bad_input_is_one_clear_error(self):
        self.fails("reproduce", "gpe", "-m", MODEL, "--text", self.text_file(3),
                   says="a text of at least")
        self.fails("reproduce", "nope", says=("polarquant", "nope"))
        self.fails("reproduce", "polarquant", "-m", MODEL, says=("emma.txt", "make texts"))
        self.fails("reproduce", "polarquant", "-m", MODEL, "--text", self.write("e.txt", ""),
                   says="at least two tokens")


if __name__ == "__main__":
    support.main()
