#!/usr/bin/env python3
"""phasor run: answers, chats over a pipe, and the flags llama.cpp's users know."""
import json

import support

QWEN = support.model("qwen2.gguf")
GREEDY = ("-n", "12", "--temp", "0")


class Completion(support.CliTest):
    def text(self, *arguments, **options):
        return self.good("run", QWEN, *arguments, **options).stdout

    def test_prompt_file_and_stdin_give_the_same_answer(self):
        prompt = self.write("prompt.txt", "hello there")
        answers = {self.text("-p", "hello there", *GREEDY), self.text("-f", prompt, *GREEDY),
                   self.text("-f", "-", *GREEDY, stdin=b"hello there"),
                   self.good("run", "-m", QWEN, "-p", "hello there", *GREEDY).stdout}
        self.assertEqual(len(answers), 1)
        self.assertGreater(len(answers.pop().strip()), 0)

    def test_temperature_zero_is_deterministic_over_threads(self):
        first = self.text("-p", "a b c", *GREEDY, "-t", "1")
        for threads in ("1", "2", "5"):
            self.assertEqual(self.text("-p", "a b c", *GREEDY, "-t", threads), first)

    def test_the_same_seed_gives_the_same_text_and_seeds_differ(self):
        def sample(seed):
            return self.text("-p", "a b c", "-n", "40", "--temp", "3", "--top-p", "1", "-s", seed)
        self.assertEqual(sample("7"), sample("7"))
        self.assertGreater(len({sample(str(seed)) for seed in range(5)}), 1)

    def test_json_carries_what_llama_server_calls_timings(self):
        j = self.good_json("run", QWEN, "-p", "hello", *GREEDY, "-s", "5", "-ctk", "q8_0", "-ctv",
                           "f16")
        self.assertEqual(j["timings"]["predicted_n"], 12)
        self.assertEqual(len(j["tokens"]), 12)
        self.assertGreater(j["timings"]["prompt_n"], 0)
        for key in ("prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second"):
            self.assertGreater(j["timings"][key], 0)
        self.assertEqual(j["cache"]["n_tokens"], j["timings"]["prompt_n"] + 12)
        for key in ("bytes", "allocated_bytes", "bits_per_element", "f16_bytes"):
            self.assertGreater(j["cache"][key], 0)
        self.assertEqual((j["type_k"], j["type_v"], j["seed"]), ("q8_0", "f16", 5))
        self.assertEqual(j["finish_reason"], "length")
        self.assertEqual(j["model"], QWEN)
        self.assertEqual(j["text"], self.text("-p", "hello", *GREEDY, "-ctk", "q8_0", "-ctv", "f16")
                         .decode("utf-8", "replace").rstrip("\n"))

    def test_statistics_go_to_stderr_and_quiet_silences_them(self):
        done = self.good("run", QWEN, "-p", "hello", *GREEDY, "-ctk", "f16")
        self.assertIn(b"tokens/s", done.stderr)
        self.assertIn(b"bits per element", done.stderr)
        self.assertEqual(self.good("run", QWEN, "-p", "hello", *GREEDY, "-ctk", "f16", "-q").stderr,
                         b"")

    def test_a_stop_string_ends_the_answer_before_itself(self):
        whole = self.good_json("run", QWEN, "-p", "hello", *GREEDY)["text"]
        stop = whole[5:7]
        j = self.good_json("run", QWEN, "-p", "hello", *GREEDY, "-r", stop)
        self.assertEqual(j["finish_reason"], "stop_string")
        self.assertEqual(j["text"], whole[:whole.index(stop)])
        streamed = self.text("-p", "hello", *GREEDY, "--stop", stop).decode()
        self.assertEqual(streamed, whole[:whole.index(stop)] + "\n")

    def test_no_tokens_asked_no_tokens_given(self):
        j = self.good_json("run", QWEN, "-p", "hello", "-n", "0")
        self.assertEqual((j["text"], j["tokens"], j["timings"]["predicted_n"]), ("", [], 0))
        self.assertEqual(self.text("-p", "hello", "-n", "0"), b"\n")

    def test_the_context_ends_an_answer_and_refuses_a_long_prompt(self):
        j = self.good_json("run", QWEN, "-p", "hello", "-c", "20", "--ignore-eos")
        self.assertEqual(j["finish_reason"], "context_full")
        self.assertEqual(j["cache"]["n_tokens"], 20)
        self.fails("run", QWEN, "-p", "hello " * 50, "-c", "20", "-ctk", "f16",
                   says=("expected at most 20 tokens", "found"))
        self.fails("run", QWEN, "-p", "hello", "-c", "1", "-ctk", "f16", says="at most 1 tokens")

    def test_llama_cpp_style_flags_are_understood(self):
        j = json.loads(self.good("run", "-m", QWEN, "-no-cnv", "-fa", "on", "-ctk", "q4_0", "-ctv",
                                 "q8_0", "-p", "hi", "-n", "2", "-c", "64", "-b", "1", "-t", "2",
                                 "--temp", "0.5", "--top-k", "10", "--top-p", "0.9", "--min-p",
                                 "0.01", "--repeat-penalty", "1.1", "--json").stdout)
        self.assertEqual((j["type_k"], j["type_v"], len(j["tokens"])), ("q4_0", "q8_0", 2))

    def test_flags_come_from_llama_cpps_environment_variables(self):
        env = {"LLAMA_ARG_CACHE_TYPE_K": "q8_0", "LLAMA_ARG_CTX_SIZE": "9", "LLAMA_ARG_THREADS": "1"}
        j = self.good_json("run", QWEN, "-p", "hello", "--ignore-eos", env=env)
        self.assertEqual((j["type_k"], j["cache"]["n_tokens"]), ("q8_0", 9))

    def test_cache_types_may_differ_per_layer(self):
        j = self.good_json("run", QWEN, "-p", "hello", "-n", "2", "-ctk", "f16,polar")
        self.assertEqual(j["type_k"], "f16,polar")
        self.fails("run", QWEN, "-p", "hello", "-ctk", "f16,f16,f16", says=("2", "3"))
        self.fails("run", QWEN, "-p", "hello", "-ctk", "f16,,f16", says="cache-type-k")

    def test_an_invalid_utf8_prompt_is_read_and_answered(self):
        bad = self.write("bad.txt", b"ab\xff\xfe\xc3 cd\xed\xa0\x80")
        self.assertGreater(self.good_json("run", QWEN, "-f", bad, "-n", "3")["timings"]["prompt_n"],
                           5)
        self.good("run", QWEN, "-p", b"\xff\xfe", "-n", "3")

    def test_every_golden_model_answers(self):
        for name in ("llama_gqa_tied", "llama_gqa_tied.gguf", "llama_linear", "llama_llama3.gguf",
                     "llama_mha_untied", "llama_partial", "llama_quantized.gguf", "llama_yarn",
                     "mistral", "qwen2", "qwen3", "qwen3-00001-of-00002.gguf"):
            j = self.good_json("run", support.model(name), "-p", "one two", "-n", "150",
                               "--ignore-eos", "--temp", "0")
            self.assertEqual(len(j["tokens"]), 150, name)

    def test_the_default_cache_without_calibration_says_so_once(self):
        notes = self.good("run", QWEN, "-p", "hello", "-n", "2", "-q").stderr.decode()
        self.assertEqual(notes.count("\n"), 1, notes)
        self.assertIn("no calibration", notes)


class Chat(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.hf_copy(chat_template=support.CHATML)
        self.flags = ("--temp", "0", "-n", "5", "-c", "400", "-ctk", "f16", "-ctv", "f16")

    def test_two_turns_over_a_pipe_share_the_cache(self):
        done = self.good("run", self.model, *self.flags, stdin=b"hello\nand now\n")
        out = done.stdout.decode("utf-8", "replace")
        self.assertEqual(out.count("> "), 3, out)  # two questions and the end
        statistics = done.stderr.decode()
        self.assertIn("answer 1", statistics)  # ten and no more: five tokens in each answer
        once = self.good("run", self.model, *self.flags, "-p", "hello").stdout
        self.assertIn(once.strip().decode("utf-8", "replace"), out)

    def test_the_template_is_used_for_a_prompt_unless_told_otherwise(self):
        chat = self.good_json("run", self.model, *self.flags, "-p", "hello")
        plain = self.good_json("run", self.model, *self.flags, "-p", "hello", "-no-cnv")
        system = self.good_json("run", self.model, *self.flags, "-p", "hello", "-sys", "be short")
        n = [j["timings"]["prompt_n"] for j in (plain, chat, system)]
        self.assertLess(n[0], n[1])
        self.assertLess(n[1], n[2])

    def test_an_empty_line_or_the_end_of_input_ends_the_chat(self):
        for stdin in (b"", b"\nnot read\n"):
            done = self.good("run", self.model, *self.flags, stdin=stdin)
            self.assertIn(b"answer 0 tokens", done.stderr)

    def test_a_full_context_ends_the_chat_with_a_word(self):
        done = self.good("run", self.model, "--temp", "0", "--ignore-eos", "-c", "40", stdin=b"hi\n")
        self.assertIn(b"context of 40 tokens is full", done.stderr)

    def test_a_model_without_template_does_not_chat(self):
        self.fails("run", QWEN, "-ctk", "f16", stdin=b"hello\n",
                   says="chat: expected a model with a chat template, found none")

    def test_a_template_outside_the_subset_only_stops_those_who_chat(self):
        broken = self.hf_copy(name="broken", chat_template="{% for m in messages %}")
        self.good("run", broken, "-p", "hello", "-n", "2", "-no-cnv")
        self.fails("run", broken, "-p", "hello", "-n", "2", "-ctk", "f16", says="template")


if __name__ == "__main__":
    support.main()
