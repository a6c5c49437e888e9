#!/usr/bin/env python3
"""phasor run --document and --load-session, and phasor chunks: labels, counts, and every way a store
or a saved session can be wrong."""
import json
import os

import support

QWEN = support.model("qwen2.gguf")
OTHER = support.model("llama_gqa_tied.gguf")
RUN = ("run", QWEN, "-p", "What then?", "-n", "6", "--temp", "0", "-c", "900", "--ignore-eos")
QUIET = (*RUN, "-ctk", "f16")  # no word about calibration on stderr


class Documents(support.CliTest):
    def setUp(self):
        super().setUp()
        self.a = self.write("a.txt", "the fox sees 42 birds and jumps over a dog\n" * 6)
        self.b = self.write("b.txt", "lazy dogs sleep, quick brown foxes do not\n" * 5)
        self.store = self.path("store")

    def run_with(self, *documents, flags=(), store=None):
        arguments = [x for d in documents for x in ("--document", d)]
        j = self.good_json(*RUN, *arguments, "--chunk-store", store or self.store, *flags)
        return j, [d["source"] for d in j["documents"]]

    def entries(self):
        return self.good_json("chunks", "--chunk-store", self.store)["chunks"]


class Reuse(Documents):
    def test_a_document_is_read_once_and_the_answer_stays_the_same(self):
        first, sources = self.run_with(self.a, self.b)
        self.assertEqual(sources, ["read", "read"])
        self.assertEqual((first["cached_tokens"], first["approximate_tokens"]), (0, 0))
        again, sources = self.run_with(self.a, self.b)
        self.assertEqual(sources, ["exact", "exact"])
        self.assertEqual(again["cached_tokens"], sum(d["n_tokens"] for d in again["documents"]))
        self.assertEqual(again["approximate_tokens"], 0)
        self.assertEqual(again["tokens"], first["tokens"])
        self.assertEqual(again["timings"]["prompt_n"], first["timings"]["prompt_n"])
        self.assertEqual([d["chunk"] for d in again["documents"]],
                         [d["chunk"] for d in first["documents"]])
        self.assertEqual(again["cache"]["n_tokens"], first["cache"]["n_tokens"])
        none, sources = self.run_with(self.a, self.b, flags=("--reuse", "none"))
        self.assertEqual(sources, ["read", "read"])
        self.assertEqual(none["tokens"], first["tokens"])
        self.assertEqual(none["cached_tokens"], 0)

    def test_exact_and_approximate_are_never_mixed(self):
        self.run_with(self.a, self.b)
        swapped, sources = self.run_with(self.b, self.a, flags=("--reuse", "approximate"))
        self.assertEqual(sources, ["approximate", "approximate"])
        self.assertEqual(swapped["cached_tokens"], 0)
        self.assertEqual(swapped["approximate_tokens"],
                         sum(d["n_tokens"] for d in swapped["documents"]))
        # Nothing that was found approximately became an entry of its own.
        self.assertEqual(len(self.entries()), 2)
        strict, sources = self.run_with(self.b, self.a)
        self.assertEqual(sources, ["read", "read"])
        self.assertEqual(strict["approximate_tokens"], 0)
        mixed, sources = self.run_with(self.a, self.a, flags=("--reuse", "approximate"))
        self.assertEqual(sources, ["exact", "approximate"])
        n = mixed["documents"][0]["n_tokens"]
        self.assertEqual((mixed["cached_tokens"], mixed["approximate_tokens"]), (n, n))

    def test_another_model_or_cache_type_reads_for_itself(self):
        self.run_with(self.a)
        for flags in (("-ctk", "f16"), ("-ctv", "q8_0"), ("-m", OTHER, "--no-conversation")):
            run = [x for x in RUN if x != QWEN or flags[0] != "-m"]
            j = self.good_json(*run, "--document", self.a, "--chunk-store", self.store, "--reuse",
                               "approximate", *flags)
            self.assertEqual([d["source"] for d in j["documents"]], ["read"])

    def test_the_default_folder_is_in_the_cache_folder_and_none_makes_no_folder(self):
        self.good_json(*RUN, "--document", self.a, "--reuse", "none")
        self.assertFalse(os.path.exists(self.path("cache/chunks")))
        self.good_json(*RUN, "--document", self.a)
        self.assertEqual(len(self.good_json("chunks", "list")["chunks"]), 1)
        spans = [f for f in os.listdir(self.path("cache/chunks")) if f.endswith(".span")]
        self.assertEqual(len(spans), 1)

    def test_people_get_a_table_on_stderr(self):
        done = self.good(*RUN, "--document", self.a, "--chunk-store", self.store)
        self.assertRegex(done.stderr.decode(), r"a\.txt +read +\d+")
        quiet = self.good(*RUN, "--document", self.a, "--chunk-store", self.store, "-q", "-ctk",
                          "f16")
        self.assertEqual(quiet.stderr, b"")

    def test_a_damaged_entry_is_one_warning_and_read_again(self):
        first, _ = self.run_with(self.a)
        path = os.path.join(self.store, first["documents"][0]["chunk"] + ".span")
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 8]))
        done = self.good(*RUN, "--document", self.a, "--chunk-store", self.store, "--json", "-ctk",
                         "frame4")
        warnings = [line for line in done.stderr.decode().splitlines() if "warning" in line]
        self.assertEqual(len(warnings), 1)
        self.assertIn(first["documents"][0]["chunk"], warnings[0])
        j = json.loads(done.stdout)
        self.assertEqual((j["documents"][0]["source"], j["tokens"]), ("read", first["tokens"]))
        healed, sources = self.run_with(self.a)
        self.assertEqual((sources, healed["tokens"]), (["exact"], first["tokens"]))

    def test_bad_input_is_one_clear_error(self):
        self.fails(*QUIET, "--document", self.path("nope"), says="nope")
        self.fails(*QUIET, "--document", self.write("empty", ""), says=("empty", "expected text"))
        self.fails(*QUIET, "--document", self.a, "--chunk-store", self.a, says=("a.txt",))
        self.fails(*QUIET, "--document", self.a, "--reuse", "most", says="approximate", code=2)
        long = self.write("long.txt", "word " * 3000)
        self.fails(*QUIET, "--document", long, says=("long.txt", "at most 900 tokens"))


class Sessions(Documents):
    def test_a_saved_session_goes_on_and_counts_as_cached(self):
        saved = self.path("s.span")
        first = self.good_json(*RUN, "--no-conversation", "--save-session", saved)
        n = first["cache"]["n_tokens"]
        on = self.good_json(*RUN, "--no-conversation", "--load-session", saved)
        self.assertEqual((on["cached_tokens"], on["approximate_tokens"]), (n, 0))
        self.assertEqual(on["cache"]["n_tokens"], n + on["timings"]["prompt_n"] + 6)
        self.good("edit", saved, "-m", QWEN, "-c", "900", "-e", "erase 1:2")
        edited = self.good_json(*RUN, "--no-conversation", "--load-session", saved)
        self.assertEqual((edited["cached_tokens"], edited["approximate_tokens"]), (1, n - 2))

    def test_a_prompt_cache_reads_only_what_is_new(self):
        cache = self.path("p.span")
        prompt = "the fox sees 42 birds and jumps over a dog"
        run = ("run", QWEN, "-n", "4", "--temp", "0", "-c", "900", "--ignore-eos",
               "--no-conversation", "-ctk", "f32", "-ctv", "f32", "--precision", "f32")
        plain = self.good_json(*run, "-p", prompt + " again")
        first = self.good_json(*run, "-p", prompt, "--prompt-cache", cache)
        self.assertEqual(first["cached_tokens"], 0)
        second = self.good_json(*run, "-p", prompt + " again", "--prompt-cache", cache)
        self.assertEqual(second["cached_tokens"], first["timings"]["prompt_n"])
        self.assertEqual(second["cached_tokens"] + second["timings"]["prompt_n"],
                         plain["timings"]["prompt_n"])
        self.assertEqual(second["tokens"], plain["tokens"])

    def test_bad_sessions_are_one_clear_error(self):
        self.fails(*QUIET, "--load-session", self.path("nope"), says="nope")
        self.fails(*QUIET, "--load-session", self.write("junk", b"junk" * 100), says="junk")
        saved = self.path("s.span")
        self.good(*RUN, "--save-session", saved)
        self.fails(*QUIET, "--load-session", saved, says=("s.span", "expected"))
        self.fails(*QUIET, "--prompt-cache", saved, "--document", self.a, says="--document", code=2)
        self.fails(*QUIET, "--prompt-cache", saved, "--save-session", saved, says="--save-session",
                   code=2)


class Chunks(Documents):
    def chunks(self, *arguments, **options):
        return self.good("chunks", *arguments, "--chunk-store", self.store, **options)

    def test_list_verify_pin_prune_and_remove(self):
        self.run_with(self.a, self.b)
        entries = self.entries()
        self.assertEqual(len(entries), 2)
        first = next(e for e in entries if e["left_context"] == 0)
        second = next(e for e in entries if e["left_context"] == first["n_tokens"])
        self.assertFalse(first["pinned"])
        self.assertNotIn("whole", first)
        out = self.chunks().stdout.decode()
        self.assertIn(first["name"], out)
        self.assertIn("2 chunks", out)
        j = self.good_json("chunks", "verify", "--chunk-store", self.store)
        self.assertEqual([c["whole"] for c in j["chunks"]], [True, True])
        self.assertEqual(j["bytes"], first["bytes"] + second["bytes"])
        self.chunks("pin", first["name"])
        self.assertIn("pinned", self.chunks("verify").stdout.decode())
        self.fails("chunks", "remove", first["name"], "--chunk-store", self.store,
                   says=("pinned", first["name"]))
        j = self.good_json("chunks", "prune", str(first["bytes"]), "--chunk-store", self.store)
        self.assertEqual((j["bytes"], j["bytes_before"]),
                         (first["bytes"], first["bytes"] + second["bytes"]))
        self.fails("chunks", "prune", "0", "--chunk-store", self.store, says="pinned")
        self.chunks("unpin", first["name"])
        self.chunks("prune", "1G")
        self.assertEqual([e["name"] for e in self.entries()], [first["name"]])
        self.chunks("remove", first["name"])
        self.assertEqual(self.entries(), [])
        self.assertIn("0 chunks", self.chunks("list").stdout.decode())

    def test_damage_is_listed_and_makes_verify_fail(self):
        j, _ = self.run_with(self.a, self.b)
        name = j["documents"][1]["chunk"]
        path = os.path.join(self.store, name + ".span")
        with open(path, "r+b") as file:
            file.truncate(100)
        out = self.chunks("list").stdout.decode()
        self.assertEqual(out.count("damaged"), 1)
        done = self.phasor("chunks", "verify", "--chunk-store", self.store)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count(b"phasor: error: "), 1)
        self.assertIn(b"1 damaged of 2", done.stderr)
        self.assertIn(name.encode(), done.stderr)
        self.chunks("remove", name)
        self.chunks("verify")

    def test_bad_input_is_one_clear_error(self):
        name = "0" * 32 + "-" + "0" * 32
        self.fails("chunks", "--chunk-store", self.path("nope"), says=("nope", "folder"))
        self.fails("chunks", "--chunk-store", self.a, says="a.txt")
        self.assertFalse(os.path.exists(self.path("nope")))
        os.mkdir(self.store)
        for action in ("remove", "pin", "unpin"):
            for wrong in (name, "../../etc/passwd"):
                self.fails("chunks", action, wrong, "--chunk-store", self.store, says="expected")
            self.fails("chunks", action, says="name of an entry", code=2)
        for size in ("", "many", "1X", "-1", "99999999999999999999", "99999999999999T"):
            self.fails("chunks", "prune", size, says="size", code=2)
        self.fails("chunks", "list", name, says="no name", code=2)
        self.fails("chunks", "burn", says="burn", code=2)


class Restore(support.CliTest):
    def test_the_restore_benchmark_loads_what_it_saved(self):
        for fill in ("synthetic", "prefill"):
            j = self.good_json("bench", QWEN, "--restore", "-d", "300,700", "-b", "64", "-r", "2",
                               "--fill", fill)
            self.assertEqual([r["n_tokens"] for r in j["results"]], [300, 700])
            for r in j["results"]:
                self.assertEqual(r["prefill"],
                                 "measured" if fill == "prefill" else "sum of chunks")
                self.assertGreater(r["file_bytes"], 0)
                for key in ("prefill_ms", "save_ms", "load_ms", "load_from_page_cache_ms"):
                    self.assertGreater(r[key], 0)
                self.assertAlmostEqual(r["prefill_over_load"], r["prefill_ms"] / r["load_ms"])
                self.assertLessEqual(r["cached_before_load"], 1)
        self.assertEqual([f for f in os.listdir(self.path("cache")) if f.startswith("bench")], [])
        out = self.good("bench", QWEN, "--restore", "-d", "200", "-r", "1").stdout.decode()
        self.assertIn("prefill / load", out)
        self.fails("bench", QWEN, "--restore", "-d", "0,100", says="at least 1", code=2)
        self.fails("bench", QWEN, "--restore", "--memory", says="--restore", code=2)


if __name__ == "__main__":
    support.main()
