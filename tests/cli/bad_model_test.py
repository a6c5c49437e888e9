#!/usr/bin/env python3
"""Damaged and hostile model files: one clear error, exit code 1, no crash, no endless wait."""
import json
import os
import shutil
import struct

import support
from support import ARRAY, F32, STRING, U32

QWEN = support.model("qwen2.gguf")
QUANTIZED = support.model("llama_quantized.gguf")
NAN16, INF16 = b"\x00\x7e", b"\x00\x7c"
NAN32, INF32 = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
# Where a block's float scales stand (offset in bytes), and the block size, per tensor type.
SCALES = {2: (18, [0]), 3: (20, [0, 2]), 6: (22, [0]), 7: (24, [0, 2]), 8: (34, [0]),
          12: (144, [0, 2]), 13: (176, [0, 2]), 14: (210, [208])}


class BadModel(support.CliTest):
    def refused(self, path, says=(), flags=()):
        return self.fails("run", path, "-p", "hello", "-n", "2", "-ctk", "f16", "-ctv", "f16",
                          *flags, says=says)

    def bad_gguf(self, data, says=(), flags=()):
        return self.refused(self.write("bad.gguf", data), says, flags)


class Gguf(BadModel):
    def test_the_helper_writes_files_that_run(self):
        for source in (QWEN, QUANTIZED):
            path = self.write("same.gguf", support.Gguf(source).build())
            same = self.good_json("run", path, "-p", "a", "-n", "4", "--temp", "0", "-ctk", "f16")
            self.assertEqual(same["tokens"], self.good_json(
                "run", source, "-p", "a", "-n", "4", "--temp", "0", "-ctk", "f16")["tokens"])

    def test_every_truncation_is_refused(self):
        with open(QWEN, "rb") as file:
            data = file.read()
        header = support.Gguf(QWEN).data_start
        lengths = sorted({*range(0, 64, 3), *range(64, header, header // 40),
                          *range(header, len(data) - 64, len(data) // 25), len(data) - 65})
        for n in lengths:
            message = self.bad_gguf(data[:n], says="bad.gguf")
            self.assertRegex(message, "expected|past|end|truncated|fit", str(n))

    def test_wrong_magic_version_and_byte_order_are_named(self):
        with open(QWEN, "rb") as file:
            data = file.read()
        self.bad_gguf(b"GGML" + data[4:], says=("expected", "found"))
        self.bad_gguf(b"PK\x03\x04" + data[4:], says=("expected", "found"))
        for version in (0, 1, 4, 77):
            self.bad_gguf(data[:4] + struct.pack("<I", version) + data[8:],
                          says=("version", str(version)))
        swapped = b"GGUF" + struct.pack(">IQQ", 3, 26, 20) + data[24:]
        self.bad_gguf(swapped, says="big-endian")

    def test_counts_that_cannot_be_true_are_refused_at_once(self):
        gguf = support.Gguf(QWEN)
        for count in (1 << 20, 1 << 40, (1 << 64) - 1):
            self.bad_gguf(gguf.build(n_tensors=count))
            self.bad_gguf(gguf.build(n_keys=count))
        data = bytearray(gguf.build())
        struct.pack_into("<Q", data, 24, (1 << 63) - 8)  # length of the first key
        self.bad_gguf(data)

    def test_shapes_types_and_names_of_tensors_are_checked(self):
        def with_tensor(name, edit):
            gguf = support.Gguf(QWEN)
            edit(gguf.tensor(name))
            return gguf.build()
        k = "blk.1.attn_k.weight"
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(2, 99)), says=(k, "99"))
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(2, 10)), says=(k, "Q2_K"))
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(1, [32, 64])),
                      says=(k, "expected", "found"))
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(1, [1 << 62, 1 << 62])), says=k)
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(1, [])), says=k)
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(1, [0, 0])), says=k)
        self.bad_gguf(with_tensor(k, lambda t: t.__setitem__(0, "blk.1.attn_q.weight")),
                      says="blk.1.attn_q.weight")
        for name in ("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight",
                     "blk.1.ffn_down.weight", "blk.1.attn_v.bias"):
            gguf = support.Gguf(QWEN)
            gguf.tensors.remove(gguf.tensor(name))
            self.bad_gguf(gguf.build(), says=(name, "expected"))

    def test_metadata_that_is_missing_or_absurd_is_named(self):
        def with_key(key, value):
            gguf = support.Gguf(QWEN)
            if value is None:
                del gguf.metadata[key]
            else:
                gguf.metadata[key] = value
            return gguf.build()
        for arch in ("mamba", "", "LLAMA", "\x1b[31mred\nline"):
            self.bad_gguf(with_key("general.architecture", (STRING, arch)), says="expected one of")
        for key in ("general.architecture", "qwen2.block_count", "qwen2.embedding_length",
                    "qwen2.attention.head_count", "qwen2.feed_forward_length",
                    "qwen2.context_length", "tokenizer.ggml.tokens", "tokenizer.ggml.model"):
            self.bad_gguf(with_key(key, None), says=key)
        for key in ("qwen2.block_count", "qwen2.embedding_length", "qwen2.attention.head_count",
                    "qwen2.attention.head_count_kv", "qwen2.feed_forward_length"):
            for value in (0, 3, 5, 1 << 30, (1 << 32) - 1):
                self.bad_gguf(with_key(key, (U32, value)), says="expected")
            self.bad_gguf(with_key(key, (STRING, "two")), says=(key, "expected"))
        self.bad_gguf(with_key("qwen2.attention.layer_norm_rms_epsilon", (F32, float("nan"))),
                      says="epsilon")
        for base in (0.0, -1.0, float("nan"), float("inf")):
            self.bad_gguf(with_key("qwen2.rope.freq_base", (F32, base)), says="frequency base")
        for value in (0, 3, 31, 48):
            self.bad_gguf(with_key("general.alignment", (U32, value)), says="alignment")

    def test_a_vocabulary_that_does_not_match_the_embedding_is_refused(self):
        gguf = support.Gguf(QWEN)
        kind, (inner, tokens) = gguf.metadata["tokenizer.ggml.tokens"]
        gguf.metadata["tokenizer.ggml.tokens"] = (kind, (inner, tokens + ["zzz", "zzzz"]))
        types = gguf.metadata.get("tokenizer.ggml.token_type")
        if types is not None:
            gguf.metadata["tokenizer.ggml.token_type"] = (
                ARRAY, (types[1][0], types[1][1] + [1, 1]))
        self.bad_gguf(gguf.build(), says=("tokenizer", "expected", "found"))
        for key in ("bos_token_id", "eos_token_id"):
            gguf = support.Gguf(QWEN)
            gguf.metadata["tokenizer.ggml." + key] = (U32, 100000)
            self.bad_gguf(gguf.build(), says=(key, "below 272", "100000"))

    def test_numbers_that_are_not_finite_are_named_with_their_tensor(self):
        gguf = support.Gguf(QWEN)
        cases = [(t[0], t[2]) for t in gguf.tensors if t[2] in (0, 1)]
        for name, kind in (cases[0], cases[1], cases[len(cases) // 2], cases[-1]):
            for value in ((NAN32, INF32) if kind == 0 else (NAN16, INF16)):
                gguf = support.Gguf(QWEN)
                data = gguf.tensor(name)[3]
                data[-len(value):] = value
                for precision in ("int8", "f32"):
                    self.bad_gguf(gguf.build(), says=(name, "expected finite"),
                                  flags=("--precision", precision))

    def test_block_scales_that_are_not_finite_are_named_with_their_tensor(self):
        for kind, (block, offsets) in SCALES.items():
            for offset in offsets:
                gguf = support.Gguf(QUANTIZED)
                try:
                    tensor = gguf.first_of_type(kind)
                except StopIteration:
                    self.fail(f"the golden model has no tensor of type {kind}")
                at = (len(tensor[3]) // block // 2) * block + offset
                for value in (NAN16, INF16):
                    tensor[3][at:at + 2] = value
                    for precision in ("int8", "f32"):
                        self.bad_gguf(gguf.build(), says=(tensor[0], "expected finite"),
                                      flags=("--precision", precision))

    def test_split_files_need_all_their_parts(self):
        names = [f"qwen3-0000{i}-of-00002.gguf" for i in (1, 2)]
        first = shutil.copy(support.model(names[0]), self.folder.name)
        self.refused(first, says=names[1])
        self.refused(support.model(names[1]), says="first part")
        second = shutil.copy(support.model(names[1]), self.folder.name)
        self.good("run", first, "-p", "hello", "-n", "2")
        with open(second, "r+b") as file:
            file.truncate(os.path.getsize(second) - 1000)
        self.refused(first, says=names[1])
        shutil.copy(first, second)
        self.refused(first)

    def test_things_that_are_no_files_are_refused_without_waiting(self):
        os.mkfifo(self.path("pipe.gguf"))
        self.refused(self.path("pipe.gguf"), says=("regular file", "pipe"))
        self.refused("/dev/zero", says=("regular file", "device"))
        self.refused(self.path("nope.gguf"), says="No such file")
        self.refused(self.write("empty.gguf", b""), says="empty.gguf")
        for command in (("inspect",), ("bench",)):
            self.fails(*command, self.path("pipe.gguf"), says="regular file")


class Folder(BadModel):
    def setUp(self):
        super().setUp()
        self.hf = self.hf_copy()
        self.weights = os.path.join(self.hf, "model.safetensors")

    def replace(self, name, data):
        self.write(os.path.join("hf", name), data)

    def test_files_that_are_missing_are_named(self):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            kept = self.path("kept")
            shutil.move(os.path.join(self.hf, name), kept)
            self.refused(self.hf, says=name)
            shutil.move(kept, os.path.join(self.hf, name))
        self.good("run", self.hf, "-p", "hello", "-n", "2")

    def test_broken_json_is_an_error_of_its_file(self):
        deep = "[" * 200000
        for name in ("config.json", "tokenizer.json"):
            with open(os.path.join(self.hf, name), "rb") as file:
                good = file.read()
            for bad in (b"", b"{", b"[]", b"null", good[:len(good) // 2], b"\xff\xfe{}",
                        deep.encode(), b'{"a":' + deep.encode()):
                self.replace(name, bad)
                self.refused(self.hf, says=name)
            self.replace(name, good)

    def test_absurd_configurations_are_refused(self):
        path = os.path.join(self.hf, "config.json")
        with open(path, "rb") as file:
            good = json.loads(file.read())
        cases = {"num_hidden_layers": (0, -1, 3, 1e18, "two", None), "hidden_size": (0, 63, 1e30),
                 "num_attention_heads": (0, 3, -4, 1 << 40), "num_key_value_heads": (0, 3, 8),
                 "head_dim": (0, 15, 1 << 20, -16), "vocab_size": (0, 10, 1 << 31),
                 "intermediate_size": (0, 65), "max_position_embeddings": (0, -5),
                 "rms_norm_eps": (0, -1, 2, "x"), "model_type": ("gpt2", 7, None),
                 "hidden_act": ("gelu",),
                 "rope_parameters": ({"rope_type": "magic"}, {"rope_type": "linear", "factor": 0},
                                     {"rope_type": "yarn", "factor": -2, "rope_theta": 1e4},
                                     {"rope_type": "default", "rope_theta": 0},
                                     {"rope_type": "default", "partial_rotary_factor": 7})}
        for key, values in cases.items():
            for value in values:
                self.replace("config.json", json.dumps({**good, key: value}))
                self.refused(self.hf)

    def test_safetensors_headers_are_checked(self):
        with open(self.weights, "rb") as file:
            data = file.read()
        header, body = support.read_safetensors(self.weights)
        for n in (0, 1 << 62, (1 << 64) - 1, len(data), len(data) - 8 + 1):
            self.replace("model.safetensors", struct.pack("<Q", n) + data[8:])
            self.refused(self.hf, says="model.safetensors")
        for length in (0, 4, 8, 100, 2000, len(data) // 2, len(data) - 1):
            self.replace("model.safetensors", data[:length])
            self.refused(self.hf, says="model.safetensors")
        name = next(k for k in header if "q_proj" in k)
        for edit in ({"dtype": "F8_E4M3"}, {"dtype": "I64"}, {"dtype": 7}, {"shape": [64, 63]},
                     {"shape": [-1, 64]}, {"shape": "no"}, {"shape": [1 << 40, 1 << 40]},
                     {"data_offsets": [0]}, {"data_offsets": [8, 4]},
                     {"data_offsets": [0, 1 << 60]}, {"data_offsets": None}):
            self.replace("model.safetensors", support.build_safetensors(
                {**header, name: {**header[name], **edit}}, body))
            self.refused(self.hf, says=name)
        missing = {k: v for k, v in header.items() if k != name}
        self.replace("model.safetensors", support.build_safetensors(missing, body))
        self.refused(self.hf)

    def test_numbers_that_are_not_finite_are_named(self):
        header, body = support.read_safetensors(self.weights)
        for name in (next(k for k in header if "down_proj" in k), "model.norm.weight",
                     "model.embed_tokens.weight"):
            end = header[name]["data_offsets"][1]
            bad = bytearray(body)
            bad[end - 2:end] = NAN16
            self.assertEqual(header[name]["dtype"], "F16")
            self.replace("model.safetensors", support.build_safetensors(header, bad))
            self.refused(self.hf, says=(name, "finite"))

    def test_an_untied_embedding_is_checked_as_well(self):
        untied = self.hf_copy("llama_mha_untied", "untied")
        path = os.path.join(untied, "model.safetensors")
        header, body = support.read_safetensors(path)
        end = header["model.embed_tokens.weight"]["data_offsets"][1]
        size = {"F32": 4, "F16": 2, "BF16": 2}[header["model.embed_tokens.weight"]["dtype"]]
        body[end - size:end] = b"\xff" * size  # NaN in all three
        with open(path, "wb") as file:
            file.write(support.build_safetensors(header, body))
        self.refused(untied, says=("model.embed_tokens.weight", "finite"))

    def test_shards_that_are_missing_or_lead_elsewhere_are_refused(self):
        sharded = self.hf_copy("llama_llama3", "sharded")
        self.good("run", sharded, "-p", "hello", "-n", "2")
        shard = "model-00002-of-00002.safetensors"
        os.remove(os.path.join(sharded, shard))
        self.refused(sharded, says=shard)
        index = "model.safetensors.index.json"
        for target in ("../hf/model.safetensors", "/etc/passwd", "x.bin", 7):
            self.edit_json(sharded, index, lambda j, t=target: j["weight_map"].update(
                {next(iter(j["weight_map"])): t}))
            self.refused(sharded, says=index)

    def test_hostile_tokenizers_are_refused(self):
        def edited(edit):
            shutil.copy(os.path.join(support.model("llama_gqa_tied"), "tokenizer.json"), self.hf)
            self.edit_json(self.hf, "tokenizer.json", edit)
        hostile = (
            lambda j: j.pop("model"), lambda j: j["model"].update(type="Magic"),
            lambda j: j["model"].update(vocab={}), lambda j: j["model"].update(vocab=[1, 2]),
            lambda j: j["model"]["vocab"].update(a=-1),
            lambda j: j["model"]["vocab"].update(a=1 << 40),
            lambda j: j["model"]["vocab"].update(a="one"),
            lambda j: j["model"].update(merges=[["q", "\u4e00\u4e00"]]),
            lambda j: j["model"].update(merges=["onlyone"]),
            lambda j: j.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(((("},
                                              "behavior": "Isolated", "invert": False}),
            lambda j: j.update(pre_tokenizer={"type": "Nobody"}),
            lambda j: j.update(normalizer={"type": "Nobody"}),
            lambda j: j["added_tokens"][0].update(id=1 << 40),
            lambda j: j["added_tokens"][0].update(id=-3),
            lambda j: j.update(added_tokens=[{"id": 3000, "content": "xyzzy", "special": True}]))
        for i, edit in enumerate(hostile):
            with self.subTest(i):
                edited(edit)
                self.refused(self.hf)


if __name__ == "__main__":
    support.main()
