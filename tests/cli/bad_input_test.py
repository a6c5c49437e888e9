#!/usr/bin/env python3
"""Wrong flags, prompts, texts and output paths: one line, the right exit code, nothing left over."""
import os
import resource
import subprocess

import support

QWEN = support.model("qwen2.gguf")
RUN = ("run", QWEN, "-ctk", "f16", "-p", "hello", "-n", "2")


class Usage(support.CliTest):
    def test_commands_and_flags_that_are_not_there(self):
        self.fails(code=2, says=("expected a command", "run", "methods", "found none"))
        self.fails("rnu", code=2, says=("expected a command", "found rnu"))
        self.fails("--bogus", code=2, says="expected a command")
        self.fails("eval", code=2, says=("perplexity", "kld", "found none"))
        self.fails("eval", "bogus", code=2, says=("perplexity", "found"))
        for command in ("run", "inspect", "bench", "methods"):
            self.fails(command, "--bogus", code=2, says=(command, "--bogus"))
        self.fails("run", QWEN, "second", "third", code=2, says="second")
        self.fails("tokenize", code=2, says=("expected", "found none"))
        self.fails("tokenize", QWEN, code=2, says=("expected file", "found none"))
        self.fails("calibrate", QWEN, code=2, says="found none")
        self.fails("run", QWEN, "-p", code=2, says=("--prompt", "found none"))

    def test_numbers_out_of_range_and_words_for_numbers(self):
        cases = (("-n", "-3"), ("-n", "abc"), ("-n", "1.5"), ("-n", ""), ("-n", "9" * 30),
                 ("-c", "-5"), ("-c", "1e5"), ("-c", "9" * 23), ("-t", "-1"), ("-t", "x"),
                 ("-t", "99999"), ("-b", "0"), ("-b", "70000"), ("--sink", "-1"),
                 ("--sink", "129"), ("--recent", "-1"), ("--recent", "9999999"),
                 ("--temp", "hot"), ("--temp", "nan"), ("--temp", "inf"), ("--top-k", "-1"),
                 ("--top-k", "2.5"), ("--top-p", "x"), ("--min-p", ""), ("--repeat-last-n", "-2"),
                 ("-s", "-2"), ("-s", "1e9"), ("--precision", "int4"), ("-fa", "maybe"))
        for flag, value in cases:
            message = self.fails(*RUN, flag, value, code=2, says="expected")
            self.assertIn(value[:20] or "empty", message)
        for flag, value in (("--temp", "-1"), ("--top-p", "0"), ("--top-p", "1.5"),
                            ("--min-p", "-0.1"), ("--repeat-penalty", "0")):
            self.fails(*RUN, flag, value, says=("expected", flag[2:]))
        self.fails(*RUN, "--cpu-level", "mmx", says=("expected", "mmx"))

    def test_an_environment_variable_is_checked_like_its_flag(self):
        self.fails(*RUN, code=2, env={"LLAMA_ARG_THREADS": "many"}, says=("expected", "many"))

    def test_long_and_odd_values_stay_on_one_short_line(self):
        self.fails(*RUN, "-c", "x" * 5000, code=2, says="...")
        self.fails(*RUN, "-c", "1\n2\x1b[31m", code=2, says="\\n")
        self.fails("run", self.path("no\nsuch\x1bfile"), "-p", "a", says="no\\nsuch\\x1bfile")

    def test_flags_that_exclude_each_other(self):
        self.fails(*RUN, "-f", "x", code=2, says=("-p and -f", "both"))
        self.fails("run", QWEN, "-no-cnv", code=2, says=("prompt", "found none"))
        self.fails("run", QWEN, "--json", code=2, says=("prompt", "found none"))


class Prompts(support.CliTest):
    def test_empty_prompts_are_refused(self):
        empty = self.write("empty.txt", "")
        for flags in (("-p", ""), ("-f", empty), ("-f", "-"), ("-f", "/dev/null")):
            self.fails("run", QWEN, *flags, "-ctk", "f16", says=("expected text", "empty prompt"))

    def test_prompt_files_that_cannot_be_read(self):
        self.fails("run", QWEN, "-f", self.path("nope"), says=("nope", "No such file"))
        self.fails("run", QWEN, "-f", self.folder.name, says="Is a directory")
        self.fails("run", QWEN, "-f", "/dev/zero", says=("/dev/zero", "expected at most"))
        self.fails("tokenize", QWEN, "/dev/zero", says=("/dev/zero", "expected at most"))

    def test_a_pipe_is_a_file_like_any_other_for_text(self):
        os.mkfifo(self.path("pipe"))
        with subprocess.Popen(["sh", "-c", f"printf hello > {self.path('pipe')}"]):
            self.good("run", QWEN, "-f", self.path("pipe"), "-n", "2")

    def test_a_prompt_longer_than_the_context(self):
        long = self.write("long.txt", "hello " * 5000)
        self.fails("run", QWEN, "-f", long, "-ctk", "f16",
                   says=("expected at most 512 tokens", "found", "raise -c"))

    def test_no_model_and_no_default_model(self):
        self.fails("run", "-p", "hello", says=("expected", "make model"))
        self.fails("inspect", says=("expected", "make model"))


class Caches(support.CliTest):
    def test_unknown_types_and_types_for_the_other_role(self):
        for command in (("run", QWEN, "-p", "a"), ("inspect", QWEN), ("bench", QWEN)):
            self.fails(*command, "-ctk", "q9_9", says=("expected", "polar", "q9_9"))
            self.fails(*command, "-ctv", "polar", says=("values", "polar"))
        for bad in ("", ",", "f16,", "f16,q9_9"):
            self.fails("run", QWEN, "-p", "a", "-ctk", bad, says=("expected",))
        self.fails("run", QWEN, "-p", "a", "-ctk", "f16,f16,f16", says=("at most 2", "found 3"))

    def test_a_head_size_a_codec_cannot_take(self):
        # Heads of 16: the blocks of q8_0 and q4_0 do or do not fit; what does not, says so.
        seen = set()
        for row in self.good_json("methods"):
            if row["kind"] != "kvcodec":
                continue
            flag = "-ctk" if row["holds"].startswith("K") else "-ctv"
            done = self.phasor("run", QWEN, "-p", "a", "-n", "2", flag, row["id"])
            seen.add(done.returncode)
            if done.returncode != 0:
                self.fails("run", QWEN, "-p", "a", "-n", "2", flag, row["id"],
                           says=(row["id"], "head", "16"))
        self.assertLessEqual(seen, {0, 1})

    def test_a_context_larger_than_memory(self):
        for ctx in ("100000000000", "1000000000000000", str(2**62), str(2**63 - 1)):
            for types in (("f16", "f16"), ("polar", "q4_head"), ("f32", "f32")):
                self.fails("run", QWEN, "-p", "a", "-c", ctx, "-ctk", types[0], "-ctv", types[1],
                           says=("GiB", "this machine has", "-c"))


class Outputs(support.CliTest):
    def test_a_full_disk_is_told(self):
        with open("/dev/full", "wb") as full:
            for command in (("methods",), ("inspect", QWEN), ("run", QWEN, "-p", "a", "-n", "3",
                            "-q", "-ctk", "f16"), ("tokenize", QWEN, self.text_file()),
                            ("--help",), ("run", QWEN, "-p", "a", "-n", "3", "-q", "--json",
                                          "-ctk", "f16")):
                done = self.phasor(*command, stdout=full)
                self.assertEqual(done.returncode, 1, command)
                self.assertIn(b"No space left on device", done.stderr, command)
                self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)

    def test_a_calibration_that_cannot_be_written_leaves_nothing(self):
        text = self.text_file()
        self.fails("calibrate", QWEN, text, "-o", "/dev/full/x.json", says="cannot create")
        self.fails("calibrate", QWEN, text, "-o", self.folder.name, says=self.folder.name)
        self.assertEqual(os.listdir(self.folder.name), ["text.txt"])

    def test_a_file_size_limit_met_half_way_leaves_nothing(self):
        text, out = self.text_file(), self.path("out.json")

        def limit():
            # A write past the limit fails with EFBIG, as on a full disk with ENOSPC.
            import signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        done = subprocess.run([support.PROGRAM, "calibrate", QWEN, text, "-o", out],
                              capture_output=True, env=self.env, preexec_fn=limit, check=False,
                              timeout=support.TIMEOUT_S)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(b"cannot write", done.stderr)
        self.assertEqual(os.listdir(self.folder.name), ["text.txt"])

    def test_calibrate_replaces_devices_and_pipes_never(self):
        text = self.text_file()
        os.mkfifo(self.path("pipe"))
        self.fails("calibrate", QWEN, text, "-o", self.path("pipe"), says=("pipe", "expected"))
        self.fails("calibrate", QWEN, text, "-o", "/dev/null", says=("/dev/null", "expected"))


if __name__ == "__main__":
    support.main()
