#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random models and their logits by Hugging Face transformers.

    python scripts/make_golden_models.py [--out tests/golden/models]

Every case is a model folder as transformers saves it (config.json, safetensors, tokenizer.json),
loaded back with AutoModelForCausalLM in float32; logits.f32 holds its logits for 48 tokens as raw
little-endian float32 [48, n_vocab], golden.json the ids and facts about the case. Some cases are
also written as GGUF with the same expected logits. manifest.json lists what the test loads.

Each case states the largest change of a logit when its special feature is switched off
(`feature_effect`), so that a passing test proves that the feature was computed.

Needs: torch, transformers (5.x), tokenizers, safetensors, gguf.
"""

import argparse
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.llama import modeling_llama

import golden_gguf

N_TOKENS = 48
N_VOCAB = 272
# Every best token leads by more than twice the tolerance of the test (1e-3), so it must agree.
MIN_MARGIN = 2e-3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ("On the way to the sea they met 12 men; none of them knew the way back, and it rained\n"
        "from May to June: \"Never mind,\" said one.")
QWEN2_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
                 r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

SMALL = dict(vocab_size=N_VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5,
             max_position_embeddings=512, bos_token_id=0, eos_token_id=2,
             tie_word_embeddings=True)

# feature: config keys that switch the case's feature off, for feature_effect.
CASES = [
    dict(name="llama_mha_untied", seed=1, arch="llama", dtype="F32",
         config=dict(hidden_size=32, intermediate_size=64, num_attention_heads=2,
                     num_key_value_heads=2, tie_word_embeddings=False)),
    dict(name="llama_gqa_tied", seed=12, arch="llama", dtype="F16", gguf="F16", config={}),
    dict(name="llama_llama3", seed=3, arch="llama", dtype="BF16", gguf="F32", rope_freqs=True,
         shards=2, old_keys=True,
         config=dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1),
         rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)),
    dict(name="llama_linear", seed=4, arch="llama", dtype="BF16", gguf="F16",
         config=dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1),
         rope=dict(rope_type="linear", factor=4.0), old_keys=True),
    dict(name="llama_yarn", seed=5, arch="llama", dtype="F16",
         config=dict(max_position_embeddings=4096, hidden_size=32, num_attention_heads=2,
                     num_key_value_heads=1), theta=500.0,
         rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024)),
    dict(name="llama_partial", seed=16, arch="llama", dtype="F16", partial=0.5,
         config=dict(num_attention_heads=2, num_key_value_heads=1, head_dim=32)),
    dict(name="mistral", seed=7, arch="mistral", dtype="BF16", config=dict(sliding_window=None)),
    dict(name="qwen2", seed=8, arch="qwen2", dtype="F16", gguf="F16", theta=1e6, config={}),
    dict(name="qwen3", seed=9, arch="qwen3", dtype="BF16", gguf="F32", split=True, theta=1e6,
         config=dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32)),
]
QUANTIZED = dict(name="llama_quantized", seed=10, arch="llama",
                 config=dict(hidden_size=256, intermediate_size=256, num_attention_heads=4,
                             num_key_value_heads=1, head_dim=32))


def make_tokenizer(qwen):
    """A byte-level BPE with N_VOCAB tokens: specials, 256 bytes, and few merges."""
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    if qwen:
        tok.pre_tokenizer = pre.Sequence([
            pre.Split(tokenizers.Regex(QWEN2_PATTERN), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        tok.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=N_VOCAB, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet())
    tok.train_from_iterator([TEXT], trainer)
    assert tok.get_vocab_size() == N_VOCAB
    return tok


def gguf_tokenizer(tok, qwen):
    model = json.loads(tok.to_str())["model"]
    tokens = [tok.id_to_token(i) for i in range(N_VOCAB)]
    return dict(pre="qwen2" if qwen else "gpt-2", tokens=tokens, bos=0, eos=2,
                types=[3 if t in SPECIAL else 1 for t in tokens],  # 3 control, 1 normal
                merges=[" ".join(m) for m in model["merges"]])


def patch_partial_rotary():
    """Makes transformers' llama rotate only the first dimensions when cos is narrower than q.

    Its llama model accepts partial_rotary_factor in rope_parameters but has no code for it; the
    rule (rotate the first n_rot dimensions in halves, pass the rest) is that of its phi and glm.
    """
    plain = modeling_llama.apply_rotary_pos_emb

    def partial(q, k, cos, sin, unsqueeze_dim=1):
        n_rot = cos.shape[-1]
        if n_rot == q.shape[-1]:
            return plain(q, k, cos, sin, unsqueeze_dim)
        q_rot, k_rot = plain(q[..., :n_rot], k[..., :n_rot], cos, sin, unsqueeze_dim)
        return torch.cat((q_rot, q[..., n_rot:]), -1), torch.cat((k_rot, k[..., n_rot:]), -1)

    modeling_llama.apply_rotary_pos_emb = partial

    def default_parameters(config, **kwargs):
        dim = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        base = config.rope_parameters["rope_theta"]
        return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float) / dim)), 1.0

    modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters = staticmethod(
        default_parameters)


def make_config(case, feature=True):
    values = SMALL | case["config"]
    rope = {"rope_type": "default"}
    if feature:
        rope |= case.get("rope", {})
        if "partial" in case:
            rope["partial_rotary_factor"] = case["partial"]
    rope["rope_theta"] = case.get("theta", 10000.0)
    return transformers.AutoConfig.for_model(case["arch"], **values, rope_parameters=rope)


def randomize(model, generator):
    """Weights wide enough that logits, attention and gates are far from trivial."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("bias"):
                p.normal_(0, 0.5, generator=generator)
            else:
                wide = "embed" in name or "lm_head" in name
                std = (3.0 if wide else 1.5) / p.shape[1] ** 0.5
                p.normal_(0, std, generator=generator)


def old_style(config_path, case):
    """Rewrites config.json with rope_scaling and rope_theta, as files before transformers 5."""
    values = json.loads(config_path.read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    if case["name"] == "llama_linear":
        rope["type"] = rope.pop("rope_type")  # the oldest spelling
    values["rope_scaling"] = rope
    values["torch_dtype"] = values.pop("dtype")
    config_path.write_text(json.dumps(values, indent=2) + "\n")


def save_folder(folder, case, model, tok):
    dtype = TYPES[case["dtype"]]
    state = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()
             if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    if case.get("old_keys"):
        old_style(folder / "config.json", case)
    n = case.get("shards", 1)
    names = sorted(state)
    index = {}
    for i in range(n):
        file = f"model-{i + 1:05d}-of-{n:05d}.safetensors" if n > 1 else "model.safetensors"
        part = names[i * len(names) // n:(i + 1) * len(names) // n]
        save_file({k: state[k] for k in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    if n > 1:
        total = sum(t.numel() * t.element_size() for t in state.values())
        (folder / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {"total_size": total}, "weight_map": index}, indent=1) + "\n")
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2],
         "bos_token": SPECIAL[0], "add_bos_token": False}) + "\n")


def run(model, ids):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].numpy()


def write_golden(folder, case, ids, logits, notes):
    top2 = np.sort(logits, axis=1)[:, -2:]
    margin = float((top2[:, 1] - top2[:, 0]).min())
    assert margin > MIN_MARGIN, f"{case['name']}: margin {margin}: choose another seed"
    logits.astype("<f4").tofile(folder / "logits.f32")
    golden = dict(
        name=case["name"], architecture=case["arch"], n_vocab=N_VOCAB, text=TEXT, tokens=ids,
        torch=torch.__version__.split("+")[0], transformers=transformers.__version__,
        logit_std=round(float(logits.std()), 4),
        smallest_top1_margin=round(margin, 6), **notes)
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{case['name']:18} std {golden['logit_std']:.2f} margin "
          f"{golden['smallest_top1_margin']:.5f} {notes}")


def make_case(out, case):
    generator = torch.Generator().manual_seed(case["seed"])
    qwen = case["arch"].startswith("qwen")
    tok = make_tokenizer(qwen)
    ids = tok.encode(TEXT).ids[:N_TOKENS]
    assert len(ids) == N_TOKENS
    model = transformers.AutoModelForCausalLM.from_config(make_config(case), dtype=torch.float32)
    randomize(model, generator)
    folder = out / case["name"]
    save_folder(folder, case, model, tok)
    # The reference is the folder as any user of transformers would load it.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = run(model, ids)
    notes = dict(dtype=case["dtype"], files=case.get("shards", 1))
    if "rope" in case or "partial" in case:
        plain = transformers.AutoModelForCausalLM.from_config(make_config(case, feature=False),
                                                              dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        notes["feature_effect"] = round(float(np.abs(run(plain, ids) - logits).max()), 3)
        assert notes["feature_effect"] > 0.1
    if "partial" in case:
        notes["reference"] = "transformers llama with its rotary patched for a partial width"
    write_golden(folder, case, ids, logits, notes)
    entries = [dict(path=case["name"], golden=case["name"], quantized=False)]
    if "gguf" in case:
        entries += make_gguf(out, case, model, gguf_tokenizer(tok, qwen))
    return entries


def make_gguf(out, case, model, tokenizer):
    dtype = {"F32": np.float32, "F16": np.float16}[case["gguf"]]
    tensors = {k: v.numpy().astype(dtype if v.ndim > 1 else np.float32)
               for k, v in model.state_dict().items() if k != "lm_head.weight"}
    file = f"{case['name']}.gguf"
    common = (case["arch"], case["name"], model.config, tensors, tokenizer)
    if not case.get("split"):
        golden_gguf.write_gguf(out / file, *common, rope_freqs=case.get("rope_freqs", False))
        return [dict(path=file, golden=case["name"], quantized=False)]
    golden_gguf.write_gguf(out / file, *common, split=(len(tensors) + 1) // 2)
    first = f"{case['name']}-00001-of-00002.gguf"
    assert (out / first).exists()
    return [dict(path=first, golden=case["name"], quantized=False)]


def make_quantized(out, case):
    """One GGUF whose matrices use every block type; reference on the dequantized weights."""
    q = gguf.GGMLQuantizationType
    types = [q.Q4_0, q.Q4_1, q.Q5_0, q.Q5_1, q.Q8_0, q.Q4_K, q.Q5_K, q.Q6_K]
    tok = make_tokenizer(False)
    ids = tok.encode(TEXT).ids[:N_TOKENS]
    model = transformers.AutoModelForCausalLM.from_config(make_config(case), dtype=torch.float32)
    randomize(model, torch.Generator().manual_seed(case["seed"]))
    tensors = golden_gguf.quantized_tensors(model, types, np.random.default_rng(case["seed"]))
    used = sorted({v[1].name for v in tensors.values() if isinstance(v, tuple)})
    assert len(used) == len(types), used
    file = f"{case['name']}.gguf"
    golden_gguf.write_gguf(out / file, case["arch"], case["name"], model.config, tensors,
                           gguf_tokenizer(tok, False))
    folder = out / case["name"]
    folder.mkdir(parents=True)
    write_golden(folder, case, ids, run(model, ids), dict(dtype=used, files=1))
    return [dict(path=file, golden=case["name"], quantized=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root / "tests/golden/models")
    out = parser.parse_args().out
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    patch_partial_rotary()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    entries = []
    for case in CASES:
        entries += make_case(out, case)
    entries += make_quantized(out, QUANTIZED)
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
    (out / "manifest.json").write_text(json.dumps(entries, indent=1) + "\n")
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{len(entries)} models, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
