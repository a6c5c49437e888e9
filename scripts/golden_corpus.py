"""The lines of text that tokenizers are compared on: made from a seed, nothing copied.

Word lists below are common words of each language; the prose lines are short public-domain
sentences (Carroll, Melville, Shakespeare, Austen, Lincoln). Everything else comes from code tables.
"""
import random
import unicodedata

PROSE = """Alice was beginning to get very tired of sitting by her sister on the bank
Call me Ishmael. Some years ago - never mind how long precisely - I went to sea
It is a truth universally acknowledged, that a single man must be in want of a wife
Four score and seven years ago our fathers brought forth on this continent a new nation
Shall I compare thee to a summer's day? Thou art more lovely and more temperate
To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer
"Curiouser and curiouser!" cried Alice; she'd quite forgotten how to speak good English
He didn't know what they'd said, but I'm sure we've heard it, haven't we? They'll see, you're right
The quick brown fox jumps over the lazy dog, and the DOG'S owner SHOUTED: "IT'S MINE! WE'RE OFF!"
""".strip().split("\n")

WORDS = {
    "english": "time year people way day man thing woman life child world school state family "
               "student group country problem hand part place case week company system program "
               "question work government number night point home water room mother area money "
               "internationalization counterrevolutionary tokenizer phasor isn't can't o'clock",
    "german": "Straße über schön Mädchen Größe Äpfel Ölfässer weiß Fußgängerübergänge nicht und",
    "french": "été garçon où naïve cœur l'été aujourd'hui français déjà vu là-bas œuvre",
    "spanish": "niño mañana corazón ¿qué? ¡hola! pingüino acción más allá",
    "polish": "zażółć gęślą jaźń łódź święto źródło chrząszcz",
    "turkish": "İstanbul ışık çağ öğüt şişe kızıl",
    "vietnamese": "tiếng Việt đường phố người nước những được không",
    "cyrillic": "время человек дело жизнь день рука работа слово место вопрос їжак ґанок щастя",
    "greek": "χρόνος άνθρωπος ημέρα ζωή λόγος πόλη ερώτηση ΑΘΗΝΑ σοφία ὕδωρ",
    "arabic": "السلام عليكم كتاب مدرسة الوقت يوم حياة سؤال ماء بَيْتٌ ١٢٣",
    "hebrew": "שלום עולם ספר יום חיים שאלה מים בְּרֵאשִׁית",
    "devanagari": "समय व्यक्ति वर्ष दिन जीवन प्रश्न नमस्ते क्षत्रिय १२३",
    "bengali": "সময় মানুষ দিন জীবন প্রশ্ন নমস্কার",
    "tamil": "நேரம் மனிதன் நாள் வாழ்க்கை வணக்கம்",
    "thai": "เวลา คน วัน ชีวิต คำถาม สวัสดีครับ น้ำ ภาษาไทย",
    "chinese": "时间 人 事情 生活 问题 世界 中国 你好 我们 語言 學習 漢字 。 ，",
    "japanese": "時間 人間 生活 問題 世界 こんにちは ありがとう カタカナ ひらがな コンピューター 、 。",
    "korean": "시간 사람 생활 문제 세계 안녕하세요 감사합니다 한국어 각갂간",
    "georgian": "დრო ადამიანი დღე ცხოვრება",
    "armenian": "ժամանակ մարդ օր կյանք",
    "amharic": "ጊዜ ሰው ቀን ሕይወት ሰላም",
}
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "☕", "🤷🏿‍♀️", "🧑🏻‍💻", "1️⃣", "🫠", "♟️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "✨", "👩🏼‍🚀"]
MARKS = [chr(c) for c in range(0x300, 0x370)] + ["\u0591", "\u05b0", "\u064b", "\u0951", "\u20e3"]
SPACES = [" ", "  ", "   ", "\t", "\t\t", " \t ", "\r", " \r", "\u00a0", "\u2003", "\u3000", "\u200b",
          "\u2028", "\u0085", "\u000b", "\u000c", "\u202f", "\u1680", "\ufeff", " " * 7, " " * 33]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<s>",
            "</s>", "<unk>", "<|im_start|", "|im_end|>", "<|", "|>", "<file_sep>", "<0x0A>", "<0x41>",
            "<|im_start|>user", "<|im_end|><|im_end|>", "[INST]", "<word>", "<mark>", "▁", "▁▁", "Ġ"]
CODE = ["def {a}({b}, *args, **kwargs):", "    return {a}[{n}] + {b}['{c}']", "for (int i = 0; i < {n}; ++i) {{",
        "\tif ({a} != nullptr && {b}->{c} >= {n}) return;", "#include <{a}/{b}.h>", "}} // {a}",
        "const {a} = async ({b}) => {{ await {c}({n}); }};", "SELECT {a}, {b} FROM {c} WHERE id = {n};",
        "<div class=\"{a}\" id='{b}'>{c} &amp; {n}</div>", "{a}_{b} = {n} * 0x{n:x} / 3.14e-{n}",
        "std::vector<{a}> {b}{{}};  /* {c} */", "{{\"{a}\": [{n}, null], \"{b}\": \"\\u00e9\\n\"}}",
        "$ {a} --{b}={n} | grep -E '^[a-z]+$' > /dev/null", "let mut {a}: &'static str = r#\"{b}\"#;",
        "\\begin{{{a}}} \\frac{{{b}}}{{{n}}} \\end{{{a}}}", "import {a}.{b} as {c}  # TODO({c}): {n}%"]


def assigned(r, low, high):
    """A random code point that Unicode 14 knows, surrogates left out."""
    while True:
        c = chr(r.randrange(low, high))
        if unicodedata.category(c) not in ("Cn", "Cs") and c != "\n":
            return c


def words(r, language, n):
    return [r.choice(WORDS[language].split()) for _ in range(n)]


def prose(r):
    w = r.choice(PROSE).split()
    start = r.randrange(max(1, len(w) - 7))
    return " ".join(w[start:start + r.randrange(3, 8)])


def script(r):
    language = r.choice(list(WORDS))
    joiner = "" if language in ("chinese", "japanese", "thai") else " "
    return joiner.join(words(r, language, r.randrange(1, 6)))


def mixed(r):
    parts = [r.choice([script, numbers, emoji])(r) for _ in range(2)] + words(r, "english", 1)
    r.shuffle(parts)
    return r.choice([" ", "", ", "]).join(parts)


def code(r):
    a, b, c = words(r, "english", 3)
    return " " * r.choice([0, 0, 1, 4]) + r.choice(CODE).format(a=a, b=b, c=c.upper(), n=r.randrange(5000))


def numbers(r):
    kinds = [lambda: str(r.randrange(10 ** r.randrange(1, 15))), lambda: f"{r.random() * 1e6:,.3f}",
             lambda: f"{r.randrange(2100)}-{r.randrange(13):02}-{r.randrange(32):02}",
             lambda: "".join(r.choice("0123456789²½Ⅷ٣५〇①") for _ in range(r.randrange(1, 9))),
             lambda: f"{r.randrange(99)}%  {r.randrange(999)}", lambda: f"x{r.randrange(99)}y{r.randrange(9)}"]
    return r.choice(["", " ", "  "]).join(r.choice(kinds)() for _ in range(r.randrange(1, 4)))


def spaces(r):
    out = ""
    for _ in range(r.randrange(1, 5)):
        out += r.choice(SPACES) + r.choice(["", "a", "word", "7", "!", "é", "'s", "中"])
    return out + r.choice(["", " ", r.choice(SPACES)])


def emoji(r):
    return r.choice(["", " "]).join(r.choice(EMOJI) for _ in range(r.randrange(1, 4)))


def marks(r):
    base = r.choice("aeioucnzAEOU가अאاก ")
    return "".join(base + "".join(r.choice(MARKS) for _ in range(r.randrange(1, 5))) for _ in range(3))


def contractions(r):
    w = words(r, "english", 3)
    ends = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'ſ", "’s", "''", "'x", "'"]
    return " ".join(x + r.choice(ends) for x in w)


def specials(r):
    parts = [r.choice(SPECIALS) if r.random() < 0.6 else r.choice([" ", "a", " hi ", "é", "  ", "x1"])
             for _ in range(r.randrange(1, 6))]
    return "".join(parts)


def unicode_any(r):
    top = r.choice([0x250, 0x3000, 0xFFFF, 0x1FB00, 0x10FFFE])
    return "".join(assigned(r, 0, top) for _ in range(r.randrange(1, 12)))


def symbols(r):
    return "".join(r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ab1€£©™…—–“”«»¿·") for _ in range(r.randrange(1, 25)))


def repeats(r):
    return r.choice(["a", "ab", "=", "-", ".", " ", "0", "é", "中", "😀", "the ", "\t"]) * r.randrange(1, 70)


def random_bytes(r):
    n = r.randrange(1, 40)
    raw = bytes(r.randrange(256) for _ in range(n)) if r.random() < 0.5 else bytearray(script(r).encode())
    if isinstance(raw, bytearray):
        for _ in range(r.randrange(1, 4)):
            raw[r.randrange(len(raw))] = r.randrange(256)
        raw = raw[:r.randrange(1, len(raw) + 1)]
    return bytes(raw).replace(b"\n", b"\x80")


KINDS = [(prose, 14), (script, 18), (mixed, 8), (code, 12), (numbers, 7), (spaces, 8), (emoji, 4),
         (marks, 4), (contractions, 4), (specials, 5), (unicode_any, 8), (symbols, 4), (repeats, 2),
         (random_bytes, 8)]


def make_lines(seed, n_lines):
    """Lines as bytes, without line ends; some are empty, some are not UTF-8."""
    r = random.Random(seed)
    makers = [k for k, weight in KINDS for _ in range(weight)]
    lines = []
    for i in range(n_lines):
        line = b"" if i % 997 == 0 else r.choice(makers)(r)
        lines.append(line if isinstance(line, bytes) else line.replace("\n", " ").encode())
    return lines
