#!/usr/bin/env python3
"""Writes the seed inputs of tokenizer_fuzz into fuzz/corpus (standard library only).

A seed is a small tokenizer.json, a zero byte, and text for it. The seeds are committed; run this
again after a change here.
"""
import json
import os

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "tokenizer_fuzz")
TEXT = "a b ab'll 12 \u00e9e\u0301 <s>".encode() + b"\xff\x80"


def bpe(**parts):
    vocab = {t: i for i, t in enumerate(["<s>", "a", "b", "ab", "\u0120", "\u0120a", "\u00c3", "\u00a9", "1"])}
    data = {"added_tokens": [{"id": 0, "content": "<s>", "special": True, "lstrip": True}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", ["\u0120", "a"]]}}
    data.update(parts)
    return data


def unigram():
    vocab = [["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.0], ["ab", -4.0], ["<0xC3>", -9.0], ["<0xA9>", -9.0]]
    return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Strip"}]},
            "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "start": 1, "stop": 0}]},
            "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": vocab}}


def main():
    split = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'ll)|\\p{N}{1,3}|\\s+(?!\\S)"}, "behavior": "Isolated"},
        {"type": "Digits", "individual_digits": True}, {"type": "Punctuation"},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                "special_tokens": {"<s>": {"ids": [0]}}}
    normalized = {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}
    os.makedirs(OUT, exist_ok=True)
    for name, data in [("bpe", bpe()), ("unigram", unigram()),
                       ("steps", bpe(pre_tokenizer=split, post_processor=template, normalizer=normalized)),
                       ("characters", bpe(pre_tokenizer=None, decoder=None))]:
        with open(os.path.join(OUT, name), "wb") as file:
            file.write(json.dumps(data, separators=(",", ":")).encode() + b"\0" + TEXT)


if __name__ == "__main__":
    main()
