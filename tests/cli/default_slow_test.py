#!/usr/bin/env python3
"""The program on the default model in the user's cache folder, as `make run` leaves it."""
import os
import shutil

import support

# At temperature 0 the float32 reference gives these; each step's best token is at least 1.7 times
# as likely as the next, so rounding does not tip them.
WEEK = ("How many days are in a week?", "A week is approximately 7 days.")


class Default(support.CliTest):
    def setUp(self):
        super().setUp()
        self.scratch_cache = self.env.pop("PHASOR_CACHE")
        if "PHASOR_CACHE" in os.environ:
            self.env["PHASOR_CACHE"] = os.environ["PHASOR_CACHE"]
        self.model = self.good_json("inspect")["path"]

    def test_it_answers_without_a_model_being_named(self):
        for flags in ((), ("-ctk", "f16", "-ctv", "f16"), ("-ctk", "polar44", "-ctv", "q4_0")):
            j = self.good_json("run", "-p", WEEK[0], "--temp", "0", *flags)
            self.assertEqual(j["text"].strip(), WEEK[1], flags)
            self.assertEqual(j["finish_reason"], "stop")

    def test_the_second_turn_of_a_chat_is_that_of_the_whole_conversation_read_at_once(self):
        flags = ("--temp", "0", "-n", "30", "--precision", "f32", "-ctk", "f32", "-ctv", "f32", "-q")
        system, questions = "You are a helpful assistant.", (WEEK[0], "What is 2+2?")
        turns = self.good("run", *flags, "-sys", system, stdin="\n".join(questions).encode() + b"\n"
                          ).stdout.decode().split("\n> ")
        first, second = turns[1].strip(), turns[2].strip()
        self.assertEqual(first, WEEK[1])
        whole = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in (
            ("system", system), ("user", questions[0]), ("assistant", first),
            ("user", questions[1]))) + "<|im_start|>assistant\n"
        alone = self.good("run", *flags, "-no-cnv", "-p", whole).stdout.decode().strip()
        self.assertEqual(second, alone)
        self.assertRegex(second, "4|four")

    def test_inspect_tells_what_it_is(self):
        j = self.good_json("inspect", "-c", "8192")
        m = j["model"]
        self.assertEqual((m["architecture"], m["n_layers"], m["n_heads"], m["n_kv_heads"],
                          m["head_dim"], m["n_ctx_train"]), ("llama", 30, 9, 3, 64, 8192))
        self.assertEqual(j["file_bytes"], 98362432)
        self.assertTrue(j["tokenizer"]["chat_template"])
        plan = {(p["type_k"], p["n_ctx"]): p["cache_bytes"] for p in j["memory_plan"]}
        # 4.3 bits against 16, with the first and newest tokens in 16 bits on top.
        self.assertLess(plan["frame4", 8192], 0.35 * plan["f16", 8192])

    def test_truncated_copies_are_refused_at_every_length(self):
        copy = self.path("cut.gguf")
        size = os.path.getsize(self.model)
        shutil.copy(self.model, copy)
        for n in sorted({1, 100, 5000, 500000, *range(1000000, size, size // 12), size - 1000},
                        reverse=True):
            os.truncate(copy, n)
            self.fails("run", copy, "-p", "hello", "-n", "1", says="cut.gguf")

    def test_calibration_takes_seconds_and_keeps_the_answer(self):
        text = self.text_file(3000)
        path = self.path("own.json")
        j = self.good_json("calibrate", "default", text, "-o", path)
        self.assertEqual(j["path"], path)
        answer = self.good_json("run", "-p", WEEK[0], "--temp", "0", "--calibration", path)
        self.assertEqual(answer["text"].strip(), WEEK[1])

    def test_perplexity_of_a_short_text_is_that_of_one_window(self):
        j = self.good_json("eval", "perplexity", "default", self.text_file(200), "-ctk", "f16",
                           "-ctv", "f16")
        self.assertEqual(j["windows"], 1)
        self.assertGreater(j["ppl"], 1)


if __name__ == "__main__":
    support.main()
