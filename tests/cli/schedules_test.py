#!/usr/bin/env python3
"""Position schedules per request: flags of run, eval and bench, eval schedules, and the papers."""
import json
import math
import re

import support

MODEL = support.model("qwen2.gguf")
YARN = support.model("llama_yarn")
SCHEDULES = ("rope", "linear", "ntk", "dynamic_ntk", "yarn", "longrope", "llama3", "giraffe_power",
             "giraffe_truncated", "dprope", "hope", "nope")


class Flags(support.CliTest):
    def nll(self, *flags, model=MODEL, text=None):
        return self.good_json("eval", "perplexity", model, text or self.text_file(300), "-ctk",
                              "f16", "-ctv", "f16", "--precision", "f32", *flags)["nll"]

    def test_every_schedule_of_the_shelf_can_be_asked_for(self):
        shelf = [m["id"] for m in self.good_json("methods") if m["kind"] == "position"]
        self.assertEqual(sorted(shelf), sorted(SCHEDULES))
        own, seen = self.nll(), {}
        lists = self.write("lists.json", json.dumps({"short_factor": [1.5] * 8,
                                                     "long_factor": [4.0] * 8}))
        for method in shelf:
            flags = {"longrope": ("--rope-factors", lists), "giraffe_power": (),
                     "dynamic_ntk": ("--rope-context", "4096"), "hope": (), "nope": (), "rope": (),
                     "giraffe_truncated": ()}.get(method, ("--rope-scale", "4"))
            seen[method] = self.nll("--rope-scaling", method, *flags)
        self.assertEqual(seen["rope"], own)
        for method, value in seen.items():
            self.assertTrue(math.isfinite(value), method)
            if method != "rope":
                self.assertNotEqual(value, own, method)

    def test_neutral_settings_change_nothing(self):
        own = self.nll()
        for flags in (("linear", "--rope-scale", "1"), ("ntk", "--rope-scale", "1"),
                      ("yarn", "--rope-scale", "1"), ("dprope", "--rope-scale", "1"),
                      ("llama3", "--rope-scale", "1"), ("dynamic_ntk",),
                      ("giraffe_power", "--rope-power", "0"),
                      ("giraffe_truncated", "--rope-truncate-ctx", str(2**62)),
                      ("hope", "--rope-cut-ctx", str(2**62))):
            self.assertEqual(self.nll("--rope-scaling", *flags), own, flags)
        self.assertEqual(self.nll("--rope-scaling", "hope", "--rope-cut-ctx", "0"),
                         self.nll("--rope-scaling", "nope"))
        self.assertEqual(self.nll("--rope-scaling", "none"), own)  # llama.cpp's word for rope

    def test_the_models_own_schedule_is_the_default(self):
        text = self.text_file(300)
        own = self.nll(model=YARN, text=text)
        named = self.nll("--rope-scaling", "yarn", model=YARN, text=text)
        self.assertEqual(own, named)
        self.assertNotEqual(own, self.nll("--rope-scaling", "rope", model=YARN, text=text))

    def test_a_scale_alone_is_linear_as_in_llama_cpp(self):
        self.assertEqual(self.nll("--rope-scale", "4"),
                         self.nll("--rope-scaling", "linear", "--rope-scale", "4"))

    def test_dynamic_ntk_takes_its_scale_from_the_context(self):
        text = self.text_file(300)
        short = self.nll("--rope-scaling", "dynamic_ntk", "-c", "512", text=text)
        self.assertEqual(short, self.nll("-c", "512", text=text))
        context = 512  # what the model was trained on
        self.assertEqual(self.nll("--rope-scaling", "dynamic_ntk", "-c", 4 * context, text=text),
                         self.nll("--rope-scaling", "ntk", "--rope-scale", "4", "-c", 4 * context,
                                  text=text))

    def test_reports_name_the_schedule(self):
        text = self.text_file(50)
        ran = self.good_json("run", MODEL, "-p", "a", "-n", "2", "-ctk", "f16", "--rope-scaling",
                             "ntk", "--rope-scale", "2")
        self.assertEqual(ran["rope_method"], "ntk")
        rope = self.good_json("eval", "kld", MODEL, text, "-ctk", "f16", "-ctv", "f16",
                              "--rope-scale", "2")["rope"]
        self.assertEqual((rope["method"], rope["factor"]), ("linear", 2))
        bench = self.good_json("bench", MODEL, "-p", "8", "-n", "0", "-r", "1", "-ctk", "f16",
                               "-ctv", "f16", "--rope-scaling", "hope")
        self.assertEqual(bench[0]["rope_method"], "hope")

    def test_flags_that_the_schedule_does_not_read_are_refused(self):
        run = ("run", MODEL, "-p", "a", "-n", "2", "-ctk", "f16")
        self.fails(*run, "--rope-scaling", "hope", "--rope-scale", "2",
                   says=("hope", "--rope-cut-ctx", "found --rope-scale"))
        self.fails(*run, "--rope-scaling", "nope", "--yarn-orig-ctx", "10",
                   says=("nope", "--rope-freq-base", "--yarn-orig-ctx"))
        self.fails(*run, "--yarn-attn-factor", "1.2", says=("rope", "--yarn-attn-factor"))
        self.fails(*run, "--rope-scaling", "longrope", says=("short factors", "found none"))
        self.fails(*run, "--rope-scaling", "linear", "--rope-scale", "0", says="positive factor")
        self.fails(*run, "--rope-scaling", "yarn", "--yarn-attn-factor", "-1", says="positive")
        for bad in ("[]", '{"short_factor": [1]}', '{"short_factor": [1], "long_factor": ["x"]}'):
            path = self.write("bad.json", bad)
            self.fails(*run, "--rope-scaling", "longrope", "--rope-factors", path,
                       says="short_factor and long_factor")
        self.fails(*run, "--rope-scaling", "magic", code=2, says=("dynamic_ntk", "magic"))

    def test_a_schedule_that_turns_nothing_is_pointed_out(self):
        done = self.good("run", MODEL, "-p", "a", "-n", "2", "-q", "-ctk", "f16", "--rope-scaling",
                         "nope")
        self.assertIn(b"--rope-scaling rope", done.stderr)


class EvalSchedules(support.CliTest):
    def test_every_schedule_gets_a_row_with_all_tokens(self):
        text = self.text_file(1200)
        j = self.good_json("eval", "schedules", MODEL, text, "-c", "1024")
        self.assertEqual([r["method"] for r in j["results"]],
                         [m["id"] for m in self.good_json("methods") if m["kind"] == "position"])
        self.assertEqual(j["trained_context"], 512)
        for row in j["results"]:
            if row["method"] == "longrope":
                self.assertIn("found none", row["refused"])
                continue
            self.assertEqual(sum(b["tokens"] for b in row["by_position"]), 1023, row["method"])
            self.assertEqual(row["tokens_past"], 512)
            self.assertAlmostEqual(row["ppl_growth"], row["ppl_past"] / row["ppl_inside"])
        plain = self.good_json("eval", "perplexity", MODEL, text, "-c", "1024", "--max-tokens",
                               "1024", "-ctk", "f16", "-ctv", "f16", "--rope-scaling", "linear",
                               "--rope-scale", "2")
        linear = next(r for r in j["results"] if r["method"] == "linear")
        nll = sum(b["nll"] * b["tokens"] for b in linear["by_position"]) / 1023
        self.assertAlmostEqual(nll, plain["nll"], delta=1e-9)

    def test_schedules_can_be_chosen_and_saved(self):
        out = self.path("report.json")
        done = self.good("eval", "schedules", MODEL, self.text_file(1200), "--schedules",
                         "rope,longrope,nope", "-o", "md", "--save", out)
        self.assertIn(b"| rope ", done.stdout)
        self.assertIn(b"not run: longrope", done.stderr)
        with open(out, encoding="utf-8") as file:
            self.assertEqual(len(json.load(file)["results"]), 3)
        self.assertIn(b"none", done.stderr)

    def test_a_model_without_factors_takes_them_from_a_file(self):
        command = ("eval", "schedules", MODEL, self.text_file(1200), "-c", "1024", "--schedules",
                   "longrope,linear")
        refused = self.good_json(*command)["results"][0]["refused"]
        pairs = int(re.search(r"expected (\d+) of them", refused).group(1))
        factors = self.write("factors.json", json.dumps({"short_factor": [1.0] * pairs,
                                                         "long_factor": [2.0] * pairs}))
        longrope, linear = self.good_json(*command, "--rope-factors", factors)["results"]
        self.assertEqual(longrope["factor"], 2)
        # The same turns, and an attention factor.
        self.assertNotEqual(longrope["ppl_past"], linear["ppl_past"])
        self.assertAlmostEqual(math.log(longrope["ppl_past"]), math.log(linear["ppl_past"]), delta=0.1)
        self.fails(*command, "--rope-factors", self.write("bad.json", "[]"), says="short_factor")

    def test_wrong_schedules_and_texts_are_errors(self):
        self.fails("eval", "schedules", MODEL, self.text_file(50), "--schedules", "magic",
                   says=("expected one of", "magic"))
        self.fails("eval", "schedules", MODEL, self.write("e.txt", ""), says="two tokens")


class Reproduce(support.CliTest):
    def test_the_figures_of_dprope_come_out_without_a_model(self):
        j = self.good_json("reproduce", "dprope")
        self.assertEqual({c["verdict"] for c in j["claims"]}, {"reproduced"})
        rows = {r["id"]: r for r in j["details"]["cases"]}
        self.assertEqual((rows["dprope_2"]["pairs_changed"], rows["dprope_4"]["pairs_changed"]),
                         (46, 42))
        self.assertEqual(round(rows["linear_2"]["disturbance"], 5), 0.02406)
        self.assertNotIn("model", j)
        self.assertNotIn("extension", j["details"])

    def test_giraffe_and_hope_are_judged_from_tables_and_a_run(self):
        text = self.text_file(1200)
        short = self.write("short.txt", "the quick brown fox")
        for paper, exact in (("giraffe", "the truncated basis keeps 41, slows 14 and stops 9 pairs"),
                             ("hope", "pairs kept by the cut")):
            j = self.good_json("reproduce", paper, "-m", MODEL, "--text", text)
            verdict = {c["claim"]: c["verdict"] for c in j["claims"]}
            self.assertEqual(verdict[exact], "reproduced")
            self.assertEqual(j["details"]["extension"][0]["method"], "rope")
            markdown = self.good("reproduce", paper, "-m", MODEL, "--text", text, "-o", "md").stdout
            self.assertIn(b"| rope ", markdown)
            self.fails("reproduce", paper, "-m", MODEL, "--text", short,
                       says="trained context of 512")


if __name__ == "__main__":
    support.main()
