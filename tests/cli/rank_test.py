#!/usr/bin/env python3
"""phasor rank and phasor run --beams: one pass equals separate ones, and beams are ordered."""
import csv
import io

import support

MODEL = support.model("llama_gqa_tied.gguf")
CONTEXT = "hello world, hello"
CANDIDATES = (" world", " again and again", " a")


class Rank(support.CliTest):
    def rank(self, *flags, candidates=CANDIDATES, **options):
        named = [f for c in candidates for f in ("--candidate", c)]
        return self.good_json("rank", MODEL, "-p", CONTEXT, "--precision", "f32", *named, *flags,
                              **options)

    def test_one_pass_equals_separate_passes(self):
        j = self.rank("--compare", "-ctk", "f16", "-ctv", "f16")
        self.assertLess(j["separate"]["max_difference"], 1e-4)
        scored = sum(c["tokens"] for c in j["candidates"])
        n = len(CANDIDATES)
        self.assertEqual(j["tokens_read"], j["context_tokens"] + scored - n)
        self.assertEqual(j["separate"]["tokens_read"], n * j["context_tokens"] + scored - n)
        self.assertAlmostEqual(j["separate"]["formula"],
                               j["separate"]["tokens_read"] / j["tokens_read"])
        self.assertAlmostEqual(j["separate"]["speed_up"], j["separate"]["ms"] / j["ms"])

    def test_the_order_is_by_score_and_does_not_depend_on_the_flags(self):
        j = self.rank()
        scores = [c["log_likelihood"] for c in j["candidates"]]
        self.assertEqual(j["order"], sorted(range(3), key=lambda i: -scores[i]))
        self.assertEqual([j["candidates"][i]["rank"] for i in j["order"]], [1, 2, 3])
        other = self.rank(candidates=CANDIDATES[::-1])
        for a, b in zip(scores, reversed(other["candidates"])):
            self.assertAlmostEqual(a, b["log_likelihood"], delta=1e-4)
        per_token = self.rank("--per-token")
        means = [c["per_token"] for c in per_token["candidates"]]
        self.assertEqual(per_token["order"], sorted(range(3), key=lambda i: -means[i]))

    def test_the_schedule_counts(self):
        plain, nope = self.rank(), self.rank("--rope-scaling", "nope")
        self.assertNotEqual([c["log_likelihood"] for c in plain["candidates"]],
                            [c["log_likelihood"] for c in nope["candidates"]])

    def test_files_and_tables(self):
        context = self.write("context.txt", CONTEXT)
        lines = self.write("lines.txt", "\n".join(CANDIDATES) + "\n\n")
        out = self.good("rank", MODEL, "-f", context, "--candidates", lines, "-o",
                        "csv").stdout.decode()
        rows = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual({row["candidate"] for row in rows}, set(CANDIDATES))
        self.assertEqual([row["rank"] for row in rows], ["1", "2", "3"])
        plain = self.good("rank", MODEL, "-f", context, "--candidate", "a", "--compare").stdout
        self.assertIn(b"speed-up", plain)

    def test_bad_requests_are_errors(self):
        self.fails("rank", MODEL, "-p", "a", says="--candidate")
        self.fails("rank", MODEL, "--candidate", "a", says="-p and -f", code=2)
        self.fails("rank", MODEL, "-p", "a", "-f", "b", "--candidate", "a", says="both", code=2)
        plain = ("-ctk", "f16", "-ctv", "f16")  # no notice of a missing calibration before the error
        self.fails("rank", MODEL, "-p", "a", "--candidate", "", *plain, says="candidate 1")
        self.fails("rank", MODEL, "-p", "a", "--candidates", self.path("none"), says="none")
        self.fails("rank", MODEL, "-p", "a b c d", "--candidate", "a b c", "-c", "3",
                   *plain, says="at most 3")


class Beams(support.CliTest):
    def run_it(self, *flags):
        return self.good_json("run", "-m", MODEL, "-no-cnv", "-p", CONTEXT, "-n", "12",
                              "--precision", "f32", "-ctk", "f32", "-ctv", "f32", "--ignore-eos",
                              *flags)

    def test_one_beam_is_greedy(self):
        self.assertEqual(self.run_it("--beams", "1")["tokens"],
                         self.run_it("--temp", "0")["tokens"])

    def test_more_beams_come_best_first(self):
        j = self.run_it("--beams", "4", "--length-penalty", "0")
        scores = [b["score"] for b in j["beams"]]
        self.assertEqual(len(scores), 4)
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertEqual(j["tokens"], j["beams"][0]["tokens"])
        self.assertGreater(j["branches"], 0)

    def test_beams_want_a_prompt_and_no_stop(self):
        self.fails("run", "-m", MODEL, "--beams", "2", says="prompt", code=2)
        self.fails("run", "-m", MODEL, "-p", "a", "--beams", "2", "--stop", "b", says="--stop",
                   code=2)


if __name__ == "__main__":
    support.main()
