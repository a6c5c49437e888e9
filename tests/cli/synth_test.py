#!/usr/bin/env python3
"""phasor synth: files with random weights that load, answer, and have the sizes that were asked for."""
import os
import resource
import signal
import subprocess

import support

# What Meta and Hugging Face publish for these models.
PARAMETERS = {"smollm2-135m": 134515008, "llama-1b": 1235814400}


class Synth(support.CliTest):
    def synth(self, *flags, name="m.gguf"):
        path = self.path(name)
        return path, self.good_json("synth", "--shape", "tiny", "-o", path, *flags)

    def test_every_weight_type_loads_and_gives_finite_logits(self):
        text = self.text_file(100)
        for weights in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q6_k", "f16", "bf16",
                        "f32"):
            path, j = self.synth("--weights", weights, "--d-model", "256", "--d-ff", "512",
                                 "--head-dim", "64")
            self.assertEqual(j["tensor_bytes"], sum(
                t["bytes"] for t in self.good_json("inspect", path)["types"]))
            ppl = self.good_json("eval", "perplexity", path, text, "-ctk", "f16", "-ctv",
                                 "f16")["results"][0]["ppl"]
            # Random weights know nothing: no better than chance among 512 tokens, but logits of
            # deviation 2 cost at most a factor of a few tens on average.
            self.assertGreater(ppl, 512 / 2, weights)
            self.assertLess(ppl, 512 * 100, weights)

    def test_the_same_seed_gives_the_same_file(self):
        files = []
        for seed in ("1", "1", "2"):
            path, _ = self.synth("--seed", seed)
            with open(path, "rb") as file:
                files.append(file.read())
        self.assertEqual(files[0], files[1])
        self.assertNotEqual(files[0], files[2])

    def test_heads_of_any_size_and_grouping_run(self):
        for heads, kv_heads, head_dim in ((6, 6, 80), (4, 2, 96), (8, 1, 256), (7, 1, 64),
                                          (5, 1, 128)):
            path, _ = self.synth("--heads", heads, "--kv-heads", kv_heads, "--head-dim", head_dim)
            model = self.good_json("inspect", path)["model"]
            self.assertEqual((model["n_heads"], model["n_kv_heads"], model["head_dim"]),
                             (heads, kv_heads, head_dim))
            self.good("run", path, "-p", "the cat", "-n", "4", "-no-cnv", "-ctk", "f16", "-ctv",
                      "f16")

    def test_the_tokenizer_spells_any_text_and_merges_letters(self):
        path, _ = self.synth()
        text = "the cat sat\ton \u00e9\U0001f600\u00ad 42!"
        out = self.good("tokenize", path, "-", "--pieces", "--no-special",
                        stdin=text.encode()).stdout.decode()
        self.assertLess(out.count("\n"), len(text.encode()))
        self.assertGreater(out.count("\n"), len(text) // 3)

    def test_the_smallest_vocabulary_runs(self):
        path, j = self.synth("--vocab", "259")
        self.assertEqual(j["n_vocab"], 259)
        self.good("run", path, "-p", "abc", "-n", "4", "-no-cnv")

    def test_shapes_have_the_sizes_of_their_models(self):
        for shape, n_params in PARAMETERS.items():
            # One layer is written; the others are alike.
            path = self.path("m.gguf")
            one, two = (self.good_json("synth", "--shape", shape, "--layers", n, "--vocab", "1024",
                                       "-o", path) for n in ("1", "2"))
            layer = two["n_params"] - one["n_params"]
            layers = 30 if shape == "smollm2-135m" else 16
            vocab = 49152 if shape == "smollm2-135m" else 128256
            d_model = one["d_model"]
            self.assertEqual(one["n_params"] + (layers - 1) * layer + (vocab - 1024) * d_model,
                             n_params, shape)

    def test_bad_flags_are_one_line(self):
        out = self.path("m.gguf")
        self.fails("synth", "--shape", "gpt-5", "-o", out, code=2, says=("llama-1b", "gpt-5"))
        self.fails("synth", "--shape", "tiny", code=2, says="--output")
        self.fails("synth", "-o", out, code=2, says="--shape")
        self.fails("synth", "--shape", "tiny", "-o", out, "--weights", "q3", code=2, says="q4_0")
        self.fails("synth", "--shape", "tiny", "-o", out, "--layers", "0", code=2, says="0")
        self.fails("synth", "--shape", "tiny", "-o", out, "--heads", "3", says=("multiple", "3"))
        self.fails("synth", "--shape", "tiny", "-o", out, "--head-dim", "33", says=("even", "33"))
        self.fails("synth", "--shape", "tiny", "-o", out, "--vocab", "258", says=("259", "258"))
        self.fails("synth", "--shape", "tiny", "-o", out, "--weights", "q4_k", says=("256", "64"))
        self.fails("synth", "--shape", "tiny", "-o", self.path("no/where"), says="No such file")
        self.fails("synth", "--shape", "tiny", "-o", self.folder.name, says="a folder")
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_a_full_disk_leaves_nothing(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        # A file-size limit meets the same write call as a full disk.
        done = subprocess.run(
            [support.PROGRAM, "synth", "--shape", "smollm2-135m", "-o", self.path("m.gguf")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env, preexec_fn=limit,
            restore_signals=False, timeout=support.TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write", done.stderr)
        self.assertEqual(os.listdir(self.folder.name), [])


if __name__ == "__main__":
    support.main()
