#!/usr/bin/env python3
"""phasor eval and phasor bench: the fields scripts read, and what must hold for any model."""
import csv
import io
import json
import math
import statistics

import support

# Heads of 32, the only golden model in which every codec meets its own block size.
MODEL = support.model("llama_quantized.gguf")
QWEN = support.model("qwen2.gguf")
# The columns of llama-bench, as of 2025, that phasor fills under the same names.
LLAMA_BENCH = ("build_commit", "build_number", "cpu_info", "gpu_info", "backends",
               "model_filename", "model_type", "model_size", "model_n_params", "n_batch",
               "n_ubatch", "n_threads", "type_k", "type_v", "flash_attn", "n_prompt", "n_gen",
               "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts")


class Perplexity(support.CliTest):
    def run_eval(self, text, *flags, model=QWEN):
        return self.good_json("eval", "perplexity", model, text, "-ctk", "f16", "-ctv", "f16",
                              *flags)

    def count_tokens(self, path, model=QWEN):
        ids = self.good("tokenize", model, path, "--no-special", "--no-parse-special").stdout
        return len(ids.split())  # the text has one line

    def test_every_token_but_a_windows_first_is_scored(self):
        text = self.text_file()
        n = self.count_tokens(text)
        for ctx in (2, 50, 200, 4000):
            j = self.run_eval(text, "-c", ctx)
            windows = math.ceil(n / ctx)
            self.assertEqual(j["tokens"], n - windows, ctx)
            self.assertAlmostEqual(j["ppl"], math.exp(j["nll"]), delta=1e-9 * j["ppl"])
            self.assertEqual(sum(b["tokens"] for b in j["by_depth"]), j["tokens"])

    def test_a_shorter_text_is_one_window(self):
        text = self.text_file(30)
        j = self.run_eval(text, "-c", "500")
        self.assertEqual((j["windows"], j["tokens"]), (1, self.count_tokens(text) - 1))

    def test_the_figures_do_not_depend_on_threads_or_cpu_level(self):
        text = self.text_file(100)
        base = self.run_eval(text, "--precision", "f32", "-t", "1")["nll"]
        for flags in (("-t", "3"), ("--cpu-level", "scalar")):
            other = self.run_eval(text, "--precision", "f32", *flags)["nll"]
            # Another order of float sums: 1e-5 of a mean of a few hundred terms near 8.
            self.assertAlmostEqual(other, base, delta=1e-4, msg=str(flags))

    def test_tables_hold_one_row_per_cache_type_and_depth(self):
        text = self.text_file(100)
        out = self.good("eval", "perplexity", QWEN, text, "--types", "f16:f16,q8_0:q8_0", "-o",
                        "csv").stdout.decode()
        rows = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual({row["-ctk"] for row in rows}, {"f16", "q8_0"})
        self.assertGreater(float(rows[0]["ppl"]), 1)

    def test_texts_that_cannot_be_scored_are_errors(self):
        for data in ("", "a"):
            path = self.write("t.txt", data)
            self.fails("eval", "perplexity", QWEN, path, "-ctk", "f16", says="at least two tokens")
        self.fails("eval", "perplexity", QWEN, self.path("nope"), says="nope")
        self.fails("eval", "perplexity", QWEN, self.folder.name, says="Is a directory")
        self.fails("eval", "perplexity", QWEN, self.text_file(), "--types", "f16", "-c", "100",
                   says=("K:V", "f16"))


class Kld(support.CliTest):
    def kld(self, k, v, text=None):
        return self.good_json("eval", "kld", MODEL, text or self.text_file(), "-ctk", k, "-ctv", v)

    def test_f16_against_f16_is_exactly_zero(self):
        j = self.kld("f16", "f16")
        self.assertEqual([j[key] for key in ("mean_kl", "median_kl", "kl_99", "kl_999", "max_kl")],
                         [0] * 5)
        self.assertEqual((j["same_top"], j["ppl_ratio"]), (1, 1))
        self.assertEqual(j["ppl"], j["base_ppl"])

    def test_fewer_bits_differ_more(self):
        text = self.text_file(800)
        eight, four = self.kld("q8_0", "q8_0", text), self.kld("q4_0", "q4_0", text)
        self.assertGreater(eight["mean_kl"], 0)
        self.assertGreater(four["mean_kl"], eight["mean_kl"])
        self.assertGreater(four["max_kl"], four["mean_kl"])
        self.assertLess(four["page_bits_per_element"], eight["page_bits_per_element"])

    def test_several_types_in_one_run_are_those_of_single_runs(self):
        text = self.text_file(300)
        both = self.good_json("eval", "kld", MODEL, text, "--types", "q8_0:q8_0,q4_0:f16")
        self.assertEqual([r["type_v"] for r in both["results"]], ["q8_0", "f16"])
        self.assertEqual(both["results"][0]["mean_kl"], self.kld("q8_0", "q8_0", text)["mean_kl"])

    def test_scores_on_the_codes_are_nearly_those_of_decoded_pages(self):
        text = self.text_file(800)
        def scores(how):
            return self.good_json("eval", "kld", MODEL, text, "--types", "q8_0:q8_0,q4_0:q4_0",
                                  "--score", how)["results"]
        for blocks, codes in zip(scores("blocks"), scores("codes")):
            self.assertNotEqual(blocks["mean_kl"], codes["mean_kl"])
            # The kernels of decode round to 8 bits and more: a small part of what codes lose.
            self.assertLess(abs(codes["nll"] - blocks["nll"]), 0.02)
        self.fails("eval", "kld", MODEL, text, "--score", "magic", code=2, says=("codes", "magic"))

    def test_an_unknown_base_type_is_an_error(self):
        self.fails("eval", "kld", MODEL, self.text_file(50), "--base-type-k", "f17", "-ctk", "f16",
                   says="f17")


class Retrieve(support.CliTest):
    """Facts at depth. The golden model has random weights and knows none: only sums are checked."""

    def book(self, n_words=3000):
        letters, state, words = "abcdefghijklmnop", 7, []
        for i in range(n_words):
            state = (state * 1103515245 + 12345) % (1 << 31)
            word = "".join(letters[state >> shift & 15] for shift in (4, 8, 12, 16, 20))
            words.append(word + "." * (i % 9 == 8))
        return self.write("book.txt", " ".join(words))

    def retrieve(self, *flags, text=None):
        return self.good_json("eval", "retrieve", MODEL, text or self.book(), "--depths",
                              "512,1024", "--cases", "5", *flags)

    def test_every_task_depth_and_type_has_a_row_and_f16_agrees_with_itself(self):
        rows = self.retrieve("--types", "q8_0:q8_0,q4_0:q4_0")["results"]
        self.assertEqual([(r["task"], r["depth"], r["type_k"]) for r in rows],
                         [(task, depth, k) for task in ("needle", "kv")
                          for depth in (512, 1024, None) for k in ("f16", "q8_0", "q4_0")])
        for f16, q8, q4 in zip(rows[::3], rows[1::3], rows[2::3]):
            self.assertEqual(f16["logprob"], f16["f16_logprob"])
            self.assertEqual(q4["f16_logprob"], f16["logprob"])
            self.assertIn(f16["token_ratio"], (1, None))
            self.assertEqual(f16["both_exact"], f16["exact_right"])
            self.assertEqual(f16["logprob_error"], 0)
            self.assertGreater(q4["logprob_error"], 0)
            self.assertLessEqual(q4["both_exact"], min(q4["exact_right"], f16["exact_right"]))
            self.assertLess(f16["logprob"], 0)
            self.assertEqual(f16["cases"], 10 if f16["depth"] is None else 5)
            self.assertEqual(f16["tokens"], q4["tokens"])
            self.assertLessEqual(3 * f16["exact_right"], f16["token_right"])
            # Facts lie in pages, so that their codes matter, and few bits matter more.
            self.assertGreater(abs(q4["logprob"] - f16["logprob"]), 0)
            self.assertNotEqual(q4["logprob"], q8["logprob"])

    def test_rows_of_all_depths_are_sums_of_those_of_each_and_rows_hold_their_answers(self):
        rows = self.retrieve("--task", "kv", "--types", "q4_0:q4_0")["results"]
        for one, two, both in zip(rows[0:2], rows[2:4], rows[4:6]):
            for field in ("cases", "tokens", "token_right", "exact_right", "both_exact"):
                self.assertEqual(both[field], one[field] + two[field])
            self.assertNotIn("answers", both)
            for row in (one, two):
                answers = row["answers"]
                self.assertEqual(len(answers), row["cases"])
                self.assertEqual(sum(a["right"] for a in answers), row["token_right"])
                self.assertAlmostEqual(sum(a["logprob"] for a in answers) / len(answers),
                                       row["logprob"])
                if row["type_k"] == "q4_0":
                    changes = [a["logprob"] - b["logprob"]
                               for a, b in zip(answers, rows[rows.index(row) - 1]["answers"])]
                    self.assertAlmostEqual(row["logprob_error"],
                                           statistics.stdev(changes) / len(changes) ** 0.5)
                # At least the 16-bit window lies between a fact and its question.
                self.assertTrue(all(128 <= a["distance"] < row["depth"] for a in answers))

    def test_the_saved_report_is_the_printed_one(self):
        path = self.path("report.json")
        report = self.retrieve("--task", "kv", "--types", "q4_0:q4_0", "--save", path)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.load(file), report)

    def test_one_text_is_asked_as_often_as_is_said(self):
        once, thrice = (self.retrieve("--task", "kv", "--types", "f16:f16", "--asked", n)["results"]
                        for n in (5, 2))
        self.assertEqual([r["texts"] for r in once], [1, 1, 1])
        self.assertEqual([r["texts"] for r in thrice], [3, 3, 3])
        self.assertEqual([r["cases"] for r in once], [r["cases"] for r in thrice])

    def test_the_seed_decides_what_is_asked(self):
        flags = ("--task", "kv", "--types", "f16:f16")
        one, same, other = (self.retrieve(*flags, "-s", seed)["results"] for seed in (1, 1, 2))
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)

    def test_bad_input_is_an_error(self):
        book = self.book()
        self.fails("eval", "retrieve", MODEL, book, "--depths", "300", "-ctk", "f16", says=("depth", "384", "300"))
        self.fails("eval", "retrieve", MODEL, book, "--task", "magic", code=2, says="magic")
        self.fails("eval", "retrieve", MODEL, book, "-c", "512", code=2, says="--depths")
        self.fails("eval", "retrieve", MODEL, book, "--needle-spacing", "63", code=2, says="63")
        self.fails("eval", "retrieve", MODEL, book, "-ctk", "f16", "--depths", "100000",
                   says="text of at least")
        self.fails("eval", "retrieve", MODEL, book, "--types", "f17:f16", says="f17")
        self.fails("eval", "retrieve", MODEL, self.text_file(50), "-ctk", "f16", says="words")


class Parallel(support.CliTest):
    FLAGS = ("--cases", "2", "--contexts", "3", "--items", "2", "--questions", "2",
             "--temperatures", "0.5", "--scales", "0.8,1", "--lengths", "300", "--context-tokens",
             "100", "--rounds", "1", "-ctk", "f16", "-ctv", "f16")

    def parallel(self, *flags):
        return self.good_json("eval", "parallel", MODEL, *self.FLAGS, *flags)

    def test_every_method_has_a_row_and_plain_parallel_recovers_nothing(self):
        rows = self.parallel("--no-speed")["quality"]
        for task in ("lookup", "shots"):
            mine = [r for r in rows if r["task"] == task]
            self.assertEqual([r["method"] for r in mine],
                             ["none", "sequential", "naive", "ape", "grid", "grid", "grid"])
            by = {r["method"]: r for r in mine}
            self.assertEqual((by["naive"]["temperature"], by["naive"]["scale"]), (1, 1))
            self.assertEqual(by["naive"]["recovered"], 0)
            self.assertEqual(by["sequential"]["recovered"], 1)
            self.assertIn(by["ape"]["logprob"], [r["logprob"] for r in mine[4:]])
            self.assertEqual(len({r["logprob"] for r in mine[4:]}), 3)
            for r in mine:
                self.assertEqual(r["questions"], 2)
                self.assertLess(r["logprob"], 0)

    def test_cached_contexts_are_not_read(self):
        rows = self.parallel("--no-quality", "--filled", "5000", "-b", "64")["speed"]
        self.assertEqual([(r["tokens"], r["filled"]) for r in rows], [(300, False), (5000, True)])
        for r in rows:
            self.assertEqual(r["cached_read"], r["query_tokens"])
            self.assertGreater(r["sequential_ms"], 0)
            self.assertGreater(r["end_to_end_speedup"], 0)

    def test_tables_and_the_seed(self):
        one, same, other = (self.parallel("--no-speed", "-s", s)["quality"] for s in (1, 1, 2))
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)
        out = self.good("eval", "parallel", MODEL, *self.FLAGS, "--no-speed", "-o", "csv").stdout
        rows = list(csv.DictReader(io.StringIO(out.decode())))
        self.assertEqual(len(rows), 14)

    def test_bad_input_is_an_error(self):
        self.fails("eval", "parallel", MODEL, "--temperatures", "1.5", code=2, says="1.5")
        self.fails("eval", "parallel", MODEL, "--scales", "0", code=2, says="0")
        self.fails("eval", "parallel", MODEL, "--task", "magic", code=2, says="magic")
        self.fails("eval", "parallel", MODEL, "--contexts", "33", code=2, says="33")
        self.fails("eval", "parallel", MODEL, "-c", "512", code=2, says="--contexts")
        self.fails("eval", "parallel", MODEL, "--no-quality", "--no-speed", code=2, says="measure")


class Bench(support.CliTest):
    FLAGS = ("-p", "16", "-n", "4", "-d", "0,32", "-r", "2", "-ctk", "f16,q8_0", "-ctv", "f16")

    def check(self, rows):
        self.assertEqual(len(rows), 2 * 2 * 2)  # depths, cache types, prompt and generation
        for row in rows:
            for key in LLAMA_BENCH:
                self.assertIn(key, row)
            self.assertGreater(float(row["avg_ts"]), 0)
            self.assertGreater(float(row["bytes_per_token"]), 0)
        self.assertEqual({int(row["n_depth"]) for row in rows}, {0, 32})
        self.assertEqual({(int(row["n_prompt"]), int(row["n_gen"])) for row in rows},
                         {(16, 0), (0, 4)})

    def test_json_jsonl_and_csv_carry_llama_benchs_fields(self):
        rows = json.loads(self.good("bench", MODEL, *self.FLAGS, "-o", "json").stdout)
        self.check(rows)
        self.assertEqual(len(rows[0]["samples_ns"]), 2)
        self.assertEqual(len(rows[0]["samples_ts"]), 2)
        lines = self.good("bench", MODEL, *self.FLAGS, "-o", "jsonl").stdout.splitlines()
        self.check([json.loads(line) for line in lines])
        table = self.good("bench", MODEL, *self.FLAGS, "-o", "csv").stdout.decode()
        self.check(list(csv.DictReader(io.StringIO(table))))

    def test_the_markdown_table_names_tests_as_llama_bench_does(self):
        out = self.good("bench", MODEL, *self.FLAGS).stdout.decode()
        header = [cell.strip() for cell in out.splitlines()[0].strip("|").split("|")]
        for column in ("model", "size", "params", "backend", "threads", "type_k", "test", "t/s"):
            self.assertIn(column, header)
        for name in ("pp16", "tg4", "pp16 @ d32", "tg4 @ d32"):
            self.assertIn(f" {name} |", out)

    def test_depths_are_filled_without_a_prefill_unless_asked(self):
        def rows(*flags):
            return json.loads(self.good("bench", MODEL, "-p", "0", "-n", "4", "-d", "0,1500", "-r",
                                        "1", "-ctk", "q8_0,f16", "-ctv", "q4_0", "-o", "json",
                                        *flags).stdout)
        synthetic, prefill = rows(), rows("--fill", "prefill")
        for name, found in (("synthetic", synthetic), ("prefill", prefill)):
            self.assertEqual([r["depth_fill"] for r in found], ["none"] * 2 + [name] * 2)
        # The same pages and rows, whatever is in them.
        self.assertEqual([r["bytes_per_token"] for r in synthetic],
                         [r["bytes_per_token"] for r in prefill])
        table = self.good("bench", MODEL, *self.FLAGS).stdout.decode()
        self.assertIn("--fill prefill", table.splitlines()[-1])

    def test_memory_bandwidth_is_measured_at_every_level(self):
        for level in ("scalar", "auto"):
            j = json.loads(self.good("bench", "--memory", "--buffer-mib", "8", "-r", "2", "-t", "2",
                                     "--cpu-level", level, "--json").stdout)
            self.assertEqual(j["buffer_bytes"], 8 << 20)
            self.assertEqual({(r["what"], r["huge_pages"], r["n_threads"]) for r in j["results"]},
                             {(what, huge, n) for what, huge in (("read", True), ("read", False),
                                                                 ("copy", True)) for n in (1, 2)})
            for row in j["results"]:
                self.assertGreaterEqual(row["best_gb_s"], row["median_gb_s"])
                # The slowest and fastest memory anyone has, in GB/s, a busy machine allowed for.
                self.assertGreater(row["median_gb_s"], 0.01)
                self.assertLess(row["best_gb_s"], 5000)
        out = self.good("bench", "--memory", "--buffer-mib", "4", "-r", "1").stdout.decode()
        self.assertIn("median GB/s", out)
        self.fails("bench", "--memory", "--buffer-mib", "-1", code=2, says="-1")
        self.fails("bench", "--memory", "--cpu-level", "mmx", says="mmx")

    def test_attention_is_timed_beside_f16_at_every_level(self):
        flags = ("--attention", "--buffer-mib", "2", "-r", "1", "-t", "2", "--groups", "1,3")
        for level in ("scalar", "auto"):
            j = json.loads(self.good("bench", *flags, "--head-dims", "64,80", "--types",
                                     "frame4:q4_head,q8_0:q8_0", "--cpu-level", level,
                                     "--json").stdout)
            rows = j["results"]
            self.assertEqual([(r["head_dim"], r["group"], r["type_k"]) for r in rows],
                             [(d, g, k) for d in (64, 80) for g in (1, 3)
                              for k in ("f16", "frame4", "q8_0")])
            for r in rows:
                self.assertEqual(r["bytes_per_token"],
                                 {("f16", 64): 256, ("frame4", 64): 68, ("q8_0", 64): 136,
                                  ("f16", 80): 320, ("frame4", 80): 84.5,
                                  ("q8_0", 80): r["bytes_per_token"]}[r["type_k"], r["head_dim"]])
                for field in ("score_ns", "softmax_ns", "accumulate_ns", "cached_ns", "stream_ns"):
                    self.assertGreater(r[field], 0, field)
                self.assertAlmostEqual(r["stream_gb_s"],
                                       2 * r["bytes_per_token"] / r["stream_ns"], 6)
                f16 = next(f for f in rows if f["type_k"] == "f16" and
                           (f["head_dim"], f["group"]) == (r["head_dim"], r["group"]))
                self.assertAlmostEqual(r["speed_over_f16"], f16["stream_ns"] / r["stream_ns"], 6)
            # As many lines as pairs that took longer.
            self.assertEqual(len(j["slower_than_f16"]), sum(r["speed_over_f16"] < 1 for r in rows))
        out = self.good("bench", *flags, "--head-dims", "64", "--types", "q4_0:q4_0",
                        "-o", "plain").stdout.decode()
        self.assertTrue(out.splitlines()[-1].startswith("slower than f16:f16: "))

    def test_bad_flags_of_the_attention_bench(self):
        quick = ("bench", "--attention", "--buffer-mib", "1", "-r", "1", "--head-dims", "64")
        self.fails(*quick, "--types", "f16", code=2, says=("expected K:V", "f16"))
        self.fails(*quick, "--types", "nope:f16", says="nope")
        self.fails(*quick, "--types", "f16:frame4", "--groups", "0", code=2, says="0")
        self.fails(*quick, "--memory", code=2, says=("--memory", "--attention"))
        # What a type cannot do is said, not measured.
        out = self.good(*quick, "--types", "f16:frame4", "--groups", "1").stdout.decode()
        self.assertIn("left out: f16:frame4 at head size 64", out)

    def test_bad_lists_are_usage_errors(self):
        self.fails("bench", MODEL, "-p", "16,x", code=2, says=("expected an integer", "x"))
        self.fails("bench", MODEL, "-d", "-1", code=2, says=("expected", "-1"))
        self.fails("bench", MODEL, "-r", "0", code=2, says=("1 to 1000", "0"))
        self.fails("bench", MODEL, "--fill", "magic", code=2, says=("synthetic", "magic"))
        self.fails("bench", MODEL, "-ctk", "nope", says="nope")
        self.fails("bench", MODEL, "-d", "100000000000", says=("GiB", "this machine has"))


if __name__ == "__main__":
    support.main()
