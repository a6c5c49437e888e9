#!/usr/bin/env python3
"""phasor edit: a text read once, cut, moved and rewritten, saved and asked."""
import os

import support

QWEN = support.model("qwen2.gguf")


class EditSession(support.CliTest):
    def setUp(self):
        super().setUp()
        self.session = self.path("book.phs")
        self.text = self.text_file(200)

    def edit(self, *arguments, **options):
        return self.good_json("edit", self.session, "-m", QWEN, "-c", "2048", *arguments, **options)

    def read(self):
        return self.edit("--read", self.text)

    def test_a_text_is_read_once_and_opened_without_reading(self):
        made = self.read()
        self.assertEqual(made["operations"][0]["n_read"], made["n_tokens"])
        again = self.edit()
        self.assertEqual(again["n_tokens"], made["n_tokens"])
        self.assertEqual(again["operations"][0]["n_read"], 0)
        self.assertEqual(again["operations"][0]["cached_tokens"], made["n_tokens"])
        self.assertEqual(again["n_stale_tokens"], 0)

    def test_an_opened_session_answers_as_a_freshly_read_one(self):
        self.read()
        with open(self.text, encoding="utf-8") as file:
            prompt = file.read() + " and then"
        fresh = self.good_json("run", QWEN, "-c", "2048", "--raw", "-p", prompt, "-n", "8", "--temp", "0")
        kept = self.edit("-p", " and then", "-n", "8")
        self.assertEqual(kept["text"], fresh["text"])

    def test_operations_count_what_is_exact_and_what_is_not(self):
        n = self.read()["n_tokens"]
        j = self.edit("-e", "erase 100:120", "-e", "copy 10:20 50", "-e", "move 60:70 30")
        erase, copy, move = j["operations"][1:]
        self.assertEqual(erase["n_tokens"], n - 20)
        self.assertEqual((erase["n_read"], erase["cached_tokens"], erase["approximate_tokens"]),
                         (0, 100, n - 120))
        self.assertEqual(copy["n_tokens"], n - 10)
        self.assertEqual(copy["cached_tokens"], 50)
        self.assertEqual(move["cached_tokens"], 30)
        self.assertEqual(j["n_stale_tokens"], n - 10 - 30)

    def test_a_new_edition_reads_what_changed_and_all_of_it_equals_reading_it_afresh(self):
        self.read()
        with open(self.text, encoding="utf-8") as file:
            words = file.read().split()
        words[50:53] = ["one", "new", "sentence"]
        del words[100:110]
        edition = self.write("edition.txt", " ".join(words))
        j = self.edit("--text", edition)
        self.assertGreater(j["n_tokens"], 0)
        self.assertLess(j["operations"][1]["n_read"], j["n_tokens"] // 4)
        # Everything behind the first change read again: exact, so the answers are those of a session
        # that never knew the old edition.
        exact = self.edit("--text", self.text, "--recompute", "1")
        self.assertEqual(exact["n_stale_tokens"], 0)
        fresh = self.path("fresh.phs")
        self.good("edit", fresh, "-m", QWEN, "-c", "2048", "--read", self.text)
        answers = [self.good_json("edit", s, "-m", QWEN, "-c", "2048", "-p", " so", "-n", "8")["text"]
                   for s in (self.session, fresh)]
        self.assertEqual(answers[0], answers[1])

    def test_substitution_changes_every_place(self):
        self.read()
        j = self.edit("-e", "sub fox => cat")
        self.assertIn("changes", j["operations"][1]["operation"])
        done = self.good("edit", self.session, "-m", QWEN, "-c", "2048", "--show", "0:", "-q")
        self.assertNotIn(b"fox", done.stdout)

    def test_the_ledger_covers_every_token_once(self):
        self.read()
        j = self.edit("-e", "move 120:180 20", "--ledger")
        token = 0
        for piece in j["ledger"]:
            self.assertEqual(piece["first_token"], token)
            self.assertEqual(piece["stands_at"], token)
            self.assertEqual(piece["stands_at"], piece["read_at"] + piece["shift"])
            token += piece["n_tokens"]
        self.assertEqual(token, j["n_tokens"])
        table = self.good("edit", self.session, "-m", QWEN, "-c", "2048", "--ledger", "-q").stdout
        self.assertIn(b"stands at", table)

    def test_pinned_text_is_refused_and_stays_pinned_on_disk(self):
        self.read()
        self.edit("-e", "pin 40:60")
        self.fails("edit", self.session, "-m", QWEN, "-c", "2048", "-e", "erase 30:45", says=["pinned"])
        self.edit("-e", "unpin 40:60", "-e", "erase 30:45")

    def test_a_failed_operation_leaves_the_file_as_it_was(self):
        self.read()
        with open(self.session, "rb") as file:
            before = file.read()
        self.fails("edit", self.session, "-m", QWEN, "-c", "2048", "-e", "erase 5:10", "-e",
                   "erase 7:99999", says=["erase 7:99999", "expected"])
        with open(self.session, "rb") as file:
            self.assertEqual(file.read(), before)

    def test_wrong_files_and_words_are_one_clear_error(self):
        self.fails("edit", self.path("none.phs"), "-m", QWEN, says=["--read"])
        self.read()
        self.fails("edit", self.session, "-m", QWEN, "-e", "frob 1:2", says=["expected one of"], code=2)
        self.fails("edit", self.session, "-m", QWEN, "--read", self.text, says=["exists"], code=2)
        self.fails("edit", self.session, "-m", support.model("llama_gqa_tied.gguf"), says=["expected"])
        with open(self.session, "rb") as file:
            data = file.read()
        self.write("book.phs", data[: len(data) // 2])
        self.fails("edit", self.session, "-m", QWEN, says=["book.phs", "bytes"])
        self.write("book.phs", data[:200] + bytes([data[200] ^ 1]) + data[201:])
        self.fails("edit", self.session, "-m", QWEN, says=["book.phs"])

    def test_a_session_keeps_the_schedule_it_was_read_with(self):
        linear = ("--rope-scaling", "linear", "--rope-scale", "2")
        self.edit("--read", self.text, *linear)
        said = self.edit("-p", " so", "-n", "8", *linear)["text"]
        self.assertEqual(self.edit("-e", "erase 5:9", "-e", "truncate 100", *linear)["n_tokens"], 100)
        self.fails("edit", self.session, "-m", QWEN, says=["RoPE schedule", "linear", "--rope flags"])
        plain = self.path("plain.phs")
        self.good("edit", plain, "-m", QWEN, "-c", "2048", "--read", self.text)
        own = self.good_json("edit", plain, "-m", QWEN, "-c", "2048", "-p", " so", "-n", "8")["text"]
        self.assertNotEqual(own, said)
        self.fails("edit", self.session, "-m", QWEN, "--rope-scaling", "linear", "--yarn-beta-fast", "3",
                   says=["--yarn-beta-fast"])

    def test_output_leaves_the_first_session_alone(self):
        n = self.read()["n_tokens"]
        other = self.path("other.phs")
        self.edit("-e", "truncate 50", "-o", other)
        self.assertTrue(os.path.exists(other))
        self.assertEqual(self.edit()["n_tokens"], n)
        self.assertEqual(self.good_json("edit", other, "-m", QWEN, "-c", "2048")["n_tokens"], 50)


class ContextShift(support.CliTest):
    def test_an_answer_goes_on_past_the_context_with_every_kind_of_cache(self):
        for k, v in (("f16", "f16"), ("frame4", "q4_head"), ("polar44", "q4_0h")):
            arguments = ("run", QWEN, "-c", "300", "-p", "hello there", "--raw", "-n", "500",
                         "--ignore-eos", "--temp", "0", "-ctk", k, "-ctv", v)
            stopped = self.good_json(*arguments)
            self.assertEqual(stopped["finish_reason"], "context_full")
            shifted = self.good_json(*arguments, "--context-shift", "--keep", "2")
            self.assertEqual((shifted["finish_reason"], len(shifted["tokens"])), ("length", 500))
            self.assertLessEqual(shifted["cache"]["n_tokens"], 300)


if __name__ == "__main__":
    support.main()
