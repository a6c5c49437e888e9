#!/usr/bin/env python3
"""Makes the golden files of the default model with Hugging Face transformers in float32.

    python scripts/make_golden_default.py --model SmolLM2-135M-Instruct.Q4_1.gguf \
        [--texts "$(scripts/get_texts.sh --path)"]

transformers dequantizes the GGUF itself (gguf_file=). Writes to tests/golden:

  default_text.txt      the start of Emma (Austen; public domain), at most 5 KB
  default_logits.bin    what the model says at each of the passage's first 512 tokens, little-endian
                          char[4] "PHGL", u32 version 1, u32 n_tokens, n_vocab, n_probes, n_top
                          i32 tokens[n_tokens], i32 probe_ids[n_probes]
                          per token: f32 log_sum_exp, f32 logits[probe_ids],
                                     i32 top_ids[n_top], f32 top_logits[n_top] (best first)
  perplexity_text.txt   exactly 8,192 tokens from the middle of Persuasion (Austen; public domain)
  default_golden.json   negative log-likelihoods, greedy chat answers with the probabilities of the
                        two best tokens at each step

Without --texts the two texts that are already there are used. Negative log-likelihoods follow
`phasor eval perplexity`: windows of n tokens, every token but a window's first is scored, no BOS.

Needs: torch, transformers (5.x), tokenizers, gguf.
"""

import argparse
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

N_TOKENS = 512
N_PROBES = 32
N_TOP = 8
PASSAGE_BYTES = 5000
LONG_TOKENS = 8192
WINDOW = 2048
MAX_ANSWER = 48
QUESTIONS = ["How many days are in a week?", "What is 2+2?"]


def read_tokenizer(path):
    """The tokenizer of the file: byte-level BPE, digits one by one (pre-tokenizer smollm).

    Built from the metadata, because transformers' own conversion drops the digit rule.
    """
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[key].contents()  # noqa: E731
    assert get("tokenizer.ggml.model") == "gpt2" and get("tokenizer.ggml.pre") == "smollm"
    add_bos = "tokenizer.ggml.add_bos_token"
    assert add_bos not in fields or not get(add_bos), "this script never adds BOS"
    tokens = get("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in get("tokenizer.ggml.merges")]
    tok = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    pre = tokenizers.pre_tokenizers
    tok.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True),
                                      pre.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = tokenizers.decoders.ByteLevel()
    types = get("tokenizer.ggml.token_type")
    tok.add_special_tokens([t for t, kind in zip(tokens, types) if kind == 3])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=tokens[get("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[get("tokenizer.ggml.eos_token_id")])
    fast.chat_template = get("tokenizer.chat_template")
    return fast


def encode(tok, text):
    return tok(text, add_special_tokens=False)["input_ids"]


def cut_texts(tok, texts, out):
    """Writes default_text.txt (start of one novel) and perplexity_text.txt (middle of another)."""
    passage = (texts / "emma.txt").read_text(encoding="utf-8")
    passage = passage[passage.index("Emma Woodhouse"):][:PASSAGE_BYTES]
    passage = passage[:passage.rindex("\n\n") + 1]
    (out / "default_text.txt").write_text(passage, encoding="utf-8")
    text = (texts / "persuasion.txt").read_text(encoding="utf-8")
    start = text.index("\n\n", len(text) // 3) + 2
    rest = text[start:start + 8 * LONG_TOKENS]
    ids = encode(tok, rest)
    for end in range(LONG_TOKENS, LONG_TOKENS + 64):  # a cut may merge differently: try until exact
        candidate = tok.decode(ids[:end])
        if len(encode(tok, candidate)) == LONG_TOKENS:
            (out / "perplexity_text.txt").write_text(candidate, encoding="utf-8")
            return
    raise SystemExit("no cut of the novel has exactly the wanted number of tokens")


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def window_nll(logits, ids):
    """Sum of -log p(ids[i + 1]) under logits[i], in double."""
    logp = torch.log_softmax(logits[:-1].double(), -1)
    return float(-logp.gather(1, torch.tensor(ids[1:])[:, None]).sum())


def write_logits(path, logits, ids):
    n_vocab = logits.shape[1]
    rng = np.random.default_rng(20250207)
    probes = np.sort(rng.choice(n_vocab, N_PROBES, replace=False)).astype("<i4")
    values, best = torch.topk(logits, N_TOP, dim=1)
    lse = torch.logsumexp(logits.double(), 1).numpy()
    data = logits.numpy()
    with open(path, "wb") as f:
        f.write(b"PHGL" + struct.pack("<5I", 1, len(ids), n_vocab, N_PROBES, N_TOP))
        f.write(np.array(ids, "<i4").tobytes() + probes.tobytes())
        for t in range(len(ids)):
            f.write(struct.pack("<f", lse[t]) + data[t, probes].astype("<f4").tobytes())
            f.write(best[t].numpy().astype("<i4").tobytes())
            f.write(values[t].numpy().astype("<f4").tobytes())
    return float((values[:, 0] - values[:, 1]).min())


def answer(model, tok, question):
    """Greedy answer to one chat turn, token by token on the whole sequence."""
    messages = [{"role": "user", "content": question}]
    prompt = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = encode(tok, prompt)
    out, steps = [], []
    while len(out) < MAX_ANSWER:
        p = torch.softmax(logits_of(model, ids + out)[-1].double(), -1)
        top = torch.topk(p, 2)
        best = int(top.indices[0])
        steps.append([round(float(v), 6) for v in top.values])
        if best == tok.eos_token_id:
            break
        out.append(best)
    return dict(question=question, prompt=prompt, prompt_tokens=ids, tokens=out,
                text=tok.decode(out), best_and_second=steps,
                smallest_ratio=round(min(a / b for a, b in steps), 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="folder of scripts/get_texts.sh")
    parser.add_argument("--out", type=Path, default=root / "tests/golden")
    args = parser.parse_args()
    tok = read_tokenizer(args.model)
    if args.texts:
        cut_texts(tok, args.texts, args.out)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model.parent, gguf_file=args.model.name, dtype=torch.float32).eval()

    ids = encode(tok, (args.out / "default_text.txt").read_text(encoding="utf-8"))[:N_TOKENS]
    logits = logits_of(model, ids)
    golden = dict(model=args.model.name, transformers=transformers.__version__,
                  torch=torch.__version__.split("+")[0], n_tokens=len(ids),
                  nll=window_nll(logits, ids))
    golden["smallest_top1_margin"] = write_logits(args.out / "default_logits.bin", logits, ids)

    long_ids = encode(tok, (args.out / "perplexity_text.txt").read_text(encoding="utf-8"))
    assert len(long_ids) == LONG_TOKENS
    nll = [window_nll(logits_of(model, long_ids[i:i + WINDOW]), long_ids[i:i + WINDOW])
           for i in range(0, LONG_TOKENS, WINDOW)]
    n_scored = LONG_TOKENS - len(nll)
    golden["perplexity"] = dict(file="perplexity_text.txt", n_tokens=LONG_TOKENS, window=WINDOW,
                                nll=sum(nll), nll_per_window=nll, n_scored=n_scored,
                                ppl=float(np.exp(sum(nll) / n_scored)))
    golden["chat"] = [answer(model, tok, q) for q in QUESTIONS]
    # Rounding noise of the reference itself: the same weights and text in double.
    double = logits_of(model.double(), ids)
    golden["float32_noise"] = float((double - logits.double()).abs().max())
    (args.out / "default_golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(json.dumps({k: v for k, v in golden.items() if k != "chat"}, indent=1))
    for chat in golden["chat"]:
        print(chat["question"], "->", chat["text"], chat["smallest_ratio"])


if __name__ == "__main__":
    main()
