"""What single steps of Hugging Face tokenizers do: cases for tests/golden/tokenizer/steps.json."""
import json

from tokenizers import Tokenizer, models

TEXTS = ["Hello, world! It's 12.5% off -- don't   wait\n\n ok", "  two  spaces ", "a--b---c", "²½Ⅷ٣ 12a3",
         "naïve_word x1 e\u0301 \u200d ⓐⓑ", "\u3000全角 ＡＢＣ１２３ ﬁn", "", " ", "-", "--", "\t\r\n x",
         "▁a ▁▁b", "Å Å 가 ế \u0344 ａ\u0301\u0323"]
PATTERNS = [{"Regex": "-"}, {"Regex": r"\s+"}, {"Regex": r"\w+"}, {"Regex": r"\d|\h+"}, {"Regex": r"^.|o$"},
            {"Regex": r"[^\S\n]+|[\s,]"}, {"Regex": r"\p{Han}+|\p{Latin}"}, {"String": "--"}, {"Regex": r"a*"}]
BEHAVIORS = ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"]


def pre_tokenizers():
    for pattern in PATTERNS:
        for behavior in BEHAVIORS:
            for invert in (False, True):
                yield {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    for individual in (False, True):
        yield {"type": "Digits", "individual_digits": individual}
    for behavior in BEHAVIORS:
        yield {"type": "Punctuation", "behavior": behavior}
    yield {"type": "Whitespace"}
    yield {"type": "WhitespaceSplit"}
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            yield {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    yield {"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        {"type": "Digits", "individual_digits": True}]}


def normalizers():
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield {"type": form}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    yield {"type": "Prepend", "prepend": "▁"}
    for left in (False, True):
        for right in (False, True):
            yield {"type": "Strip", "strip_left": left, "strip_right": right}
    yield {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "NFKC"}]}


def tokenizer_with(part, config):
    data = json.loads(Tokenizer(models.BPE()).to_str())
    data[part] = config
    return Tokenizer.from_str(json.dumps(data))


def write(path):
    cases = []
    for config in pre_tokenizers():
        step = tokenizer_with("pre_tokenizer", config).pre_tokenizer
        out = [[p for p, _ in step.pre_tokenize_str(t)] if t else [] for t in TEXTS]
        cases.append({"part": "pre_tokenizer", "config": config, "out": out})
    for config in normalizers():
        step = tokenizer_with("normalizer", config).normalizer
        cases.append({"part": "normalizer", "config": config, "out": [step.normalize_str(t) for t in TEXTS]})
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"texts":' + json.dumps(TEXTS, ensure_ascii=False) + ',"cases":[\n')
        file.write(",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases))
        file.write("\n]}\n")
    print(f"steps: {len(cases)} cases of {len(TEXTS)} texts")
