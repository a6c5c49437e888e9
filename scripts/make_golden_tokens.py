#!/usr/bin/env python3
"""Writes tests/golden/tokenizer: a corpus, small tokenizer.json files, and what Hugging Face says.

  make_golden_tokens.py MODEL.gguf [--gpt2 VOCAB.gguf] [--spm VOCAB.gguf] [--retrain]

MODEL.gguf is the default model. --gpt2 and --spm are vocabulary-only files of GPT-2 and Llama 2;
without them their golden files stay as they are. Needs: tokenizers, gguf; sentencepiece and
transformers for the cross-checks, which are printed.

NAME.hash: for every corpus line 3 bytes, the folded FNV-1a hash of its ids (as little-endian
int32); then for every 16 lines joined by line feeds 3 hashes: of the ids, of the ids with special
tokens read as text, and of the decoded text without special tokens. Lines that are no UTF-8 are
read with errors="replace".
"""
import argparse
import json
import os
import struct
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import golden_corpus  # noqa: E402
import golden_token_steps  # noqa: E402

SEED, N_LINES, LINES_PER_BLOCK = 20250, 10240, 16
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden", "tokenizer")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def gguf_fields(path):
    import gguf
    reader = gguf.GGUFReader(path)
    names = ("tokens", "token_type", "merges", "scores", "bos_token_id")
    fields = {n: reader.fields.get("tokenizer.ggml." + n) for n in names}
    return {n: f.contents() if f is not None else None for n, f in fields.items()}


def add_gguf_specials(tokenizer, fields):
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in
                                  zip(fields["tokens"], fields["token_type"]) if kind in (2, 3)])


def byte_level_from_gguf(path, smollm):
    fields = gguf_fields(path)
    vocab = {t: i for i, t in enumerate(fields["tokens"])}
    merges = [tuple(m.split(" ")) for m in fields["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # As in the tokenizer.json of SmolLM2: every digit on its own, then the GPT-2 pattern.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level]) if smollm else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    add_gguf_specials(tokenizer, fields)
    return tokenizer


def llama_steps(tokenizer, bos, bos_id):
    """Normalizer, decoder and template of the Llama 1 and 2 tokenizer.json."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)])


def spm_from_gguf(path):
    """BPE by score as merges: pairs of tokens that make a token, the best score first."""
    fields = gguf_fields(path)
    vocab = {t: i for i, t in enumerate(fields["tokens"])}
    merges = []
    for token, score, kind in zip(fields["tokens"], fields["scores"], fields["token_type"]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [p for p in pairs if p[0] in vocab and p[1] in vocab and kind == 1]
        merges += [(score, p) for p in sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    merges = [p for _, p in sorted(merges, key=lambda m: -m[0])]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama_steps(tokenizer, "<s>", fields["bos_token_id"])
    add_gguf_specials(tokenizer, fields)
    return tokenizer


def trained_llama3(lines):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[
            ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])])
    return tokenizer


def trained_qwen2(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                  AddedToken("<mark>", lstrip=True, rstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<word>", single_word=True), AddedToken("problem", single_word=True),
                          AddedToken("é中", normalized=True), AddedToken("<file_sep>", rstrip=True)])
    return tokenizer


def trained_unigram(lines):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    # Every character of the training text becomes a token, so the rare scripts stay out: they are
    # what byte fallback is for.
    plain = [x for x in lines if all(ord(c) < 0x180 for c in unicodedata.normalize("NFKC", x))]
    tokenizer.train_from_iterator(plain, trainers.UnigramTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
        initial_alphabet=[], show_progress=False))
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    rare = min(score for _, score in vocab)
    vocab = [(t, round(s, 6)) for t, s in vocab]
    vocab += [(f"<0x{b:02X}>", round(rare - 1, 6)) for b in range(256)]
    tokenizer.model = models.Unigram(vocab, unk_id=0, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def trained_llama2(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=650, limit_alphabet=150, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    data = json.loads(tokenizer.to_str())
    data["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    data["pre_tokenizer"] = None
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    llama_steps(tokenizer, "<s>", 1)
    return tokenizer


def fold(data):
    h = 0x811C9DC5
    for b in data:
        h = ((h ^ b) * 0x01000193) & 0xFFFFFFFF
    return struct.pack("<I", (h >> 24) ^ (h & 0xFFFFFF))[:3]


def id_hash(ids):
    return fold(struct.pack(f"<{len(ids)}i", *ids))


def write_hashes(name, tokenizer, lines):
    tokenizer.encode_special_tokens = False
    out = [id_hash(tokenizer.encode(x).ids) for x in lines]
    for at in range(0, len(lines), LINES_PER_BLOCK):
        block = "\n".join(lines[at:at + LINES_PER_BLOCK])
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(block).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(block).ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        out += [id_hash(ids), id_hash(plain), fold(text.encode())]
    with open(os.path.join(OUT, name + ".hash"), "wb") as file:
        file.write(b"".join(out))
    tokenizer.encode_special_tokens = False
    print(f"{name}: {len(lines)} lines, {sum(len(e.ids) for e in tokenizer.encode_batch(lines))} tokens")


def check_transformers(path, tokenizer, lines):
    from transformers import AutoTokenizer
    other = AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))
    differ = [x for x in lines if other(x).input_ids != tokenizer.encode(x).ids]
    # That converter leaves the Digits step out, so only lines with digits may differ.
    without = [x for x in differ if not any(c.isnumeric() for c in x)]
    print(f"transformers' own reading of the GGUF: {len(differ)} lines differ, {len(without)} of them "
          "without digits")


def check_sentencepiece(path, tokenizer, lines):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    fields = gguf_fields(path)
    proto = pb.ModelProto()
    for text, score, kind in zip(fields["tokens"], fields["scores"], fields["token_type"]):
        proto.pieces.add(piece=text, score=score, type=kind)
    proto.trainer_spec.model_type = pb.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(fields["tokens"])
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = False
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    tokenizer.encode_special_tokens = True
    differ = [x for x in lines if "\0" not in x and reference.encode(x, out_type=int) !=
              tokenizer.encode(x, add_special_tokens=False).ids]
    tokenizer.encode_special_tokens = False
    print(f"sentencepiece on the same vocabulary: {len(differ)} lines differ", differ[:3])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--gpt2")
    parser.add_argument("--spm")
    parser.add_argument("--retrain", action="store_true", help="make new tokenizer.json files")
    args = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    raw = golden_corpus.make_lines(SEED, N_LINES)
    with open(os.path.join(OUT, "corpus.bin"), "wb") as file:
        file.write(b"\n".join(raw))
    lines = [x.decode("utf-8", errors="replace") for x in raw]

    small = {"llama3": trained_llama3, "qwen2": trained_qwen2, "unigram": trained_unigram,
             "llama2": trained_llama2}
    for name, train in small.items():
        path = os.path.join(OUT, name + ".json")
        if args.retrain or not os.path.exists(path):
            with open(path, "w", encoding="utf-8") as file:
                data = json.loads(train(lines).to_str())
                if "merges" in data["model"] and name == "llama3":  # the older spelling
                    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
                json.dump(data, file, ensure_ascii=False, separators=(",", ":"))
        write_hashes(name, Tokenizer.from_file(path), lines)

    smollm = byte_level_from_gguf(args.model, smollm=True)
    write_hashes("default", smollm, lines)
    check_transformers(args.model, smollm, lines)
    if args.gpt2:
        write_hashes("gpt2", byte_level_from_gguf(args.gpt2, smollm=False), lines)
    if args.spm:
        spm = spm_from_gguf(args.spm)
        write_hashes("spm", spm, lines)
        check_sentencepiece(args.spm, spm, lines)
    golden_token_steps.write(os.path.join(OUT, "steps.json"))


if __name__ == "__main__":
    main()
