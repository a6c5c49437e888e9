"""What the end-to-end tests of the program share: running it, and model files made or damaged.

Standard library only. Every test file is started as `python3 FILE PROGRAM`.
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "golden", "models")
PROGRAM = ""
# The slowest single call under the address sanitizer on one busy core takes a tenth of this.
TIMEOUT_S = 120
CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
          "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def model(name):
    return os.path.join(MODELS, name)


def main():
    global PROGRAM
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        raise SystemExit(f"usage: {sys.argv[0]} PROGRAM [unittest arguments]")
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__")


class CliTest(unittest.TestCase):
    """A scratch folder, a cache folder of its own, and the program."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PHASOR_", "LLAMA_"))}
        self.env["PHASOR_CACHE"] = self.path("cache")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, data):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        return path

    def text_file(self, n_words=400):
        """Words from a small fixed generator: a text that is long enough and always the same."""
        words, state = [], 1
        for _ in range(n_words):
            state = (state * 1103515245 + 12345) % (1 << 31)
            words.append("the a quick brown fox jumps over lazy dogs and sees 42 birds".split()
                         [state // 65536 % 13])
        return self.write("text.txt", " ".join(words))

    def phasor(self, *arguments, stdin=b"", env=None, stdout=subprocess.PIPE):
        done = subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, stdout=stdout,
                              stderr=subprocess.PIPE, env={**self.env, **(env or {})},
                              timeout=TIMEOUT_S, check=False)
        self.assertGreaterEqual(done.returncode, 0,
                                f"{arguments}: died of signal {-done.returncode}: {done.stderr}")
        return done

    def good(self, *arguments, **options):
        done = self.phasor(*arguments, **options)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stderr}")
        return done

    def good_json(self, *arguments, **options):
        return json.loads(self.good(*arguments, "--json", **options).stdout)

    def fails(self, *arguments, says=(), code=1, **options):
        """One error line that holds every text of `says`; the exit code; nothing on stdout."""
        done = self.phasor(*arguments, **options)
        message = done.stderr.decode("utf-8", "replace")
        where = f"{arguments}: {message!r}"
        self.assertEqual(done.returncode, code, where)
        self.assertTrue(message.startswith("phasor: error: "), where)
        self.assertEqual(message.count("\n"), 1, where)
        self.assertTrue(message.endswith("\n"), where)
        self.assertLess(len(message), 1000, where)
        self.assertFalse(done.stdout, where)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, message, where)
        return message

    def hf_copy(self, source="llama_gqa_tied", name="hf", chat_template=None):
        path = self.path(name)
        shutil.copytree(model(source), path)
        if chat_template is not None:
            self.edit_json(path, "tokenizer_config.json",
                           lambda config: config.update(chat_template=chat_template))
        return path

    def edit_json(self, folder, name, edit):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
        edit(value)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)


U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?",
           U64: "<Q", I64: "<q", F64: "<d"}
# Bytes per block and elements per block of the tensor types the golden models use.
BLOCKS = {0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32), 8: (34, 32),
          12: (144, 256), 13: (176, 256), 14: (210, 256), 30: (2, 1)}


class Gguf:
    """A GGUF file taken apart: edit `metadata` ({key: (type, value)}) and `tensors` ([name, dims,
    type, bytes]), then build()."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 4
        self.version, n_tensors, n_keys = self.take("<I"), self.take("<Q"), self.take("<Q")
        self.metadata, infos = {}, []
        for _ in range(n_keys):
            key = self.string()
            kind = self.take("<I")
            self.metadata[key] = (kind, self.value(kind))
        for _ in range(n_tensors):
            name, n_dims = self.string(), self.take("<I")
            dims = [self.take("<Q") for _ in range(n_dims)]
            infos.append((name, dims, self.take("<I"), self.take("<Q")))
        self.data_start = (self.at + 31) // 32 * 32
        self.tensors = []
        for name, dims, kind, offset in infos:
            n_bytes, n_elements = BLOCKS[kind]
            for d in dims:
                n_bytes *= d
            begin = self.data_start + offset
            self.tensors.append([name, dims, kind,
                                 bytearray(self.data[begin:begin + n_bytes // n_elements])])

    def take(self, form):
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def string(self):
        n = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, n = self.take("<I"), self.take("<Q")
            return inner, [self.value(inner) for _ in range(n)]
        return self.take(FORMATS[kind])

    def tensor(self, name):
        return next(t for t in self.tensors if t[0] == name)

    def first_of_type(self, kind):
        return next(t for t in self.tensors if t[2] == kind)

    @staticmethod
    def _string(text):
        raw = text.encode()
        return struct.pack("<Q", len(raw)) + raw

    def _value(self, kind, value):
        if kind == STRING:
            return self._string(value)
        if kind == ARRAY:
            inner, items = value
            return struct.pack("<IQ", inner, len(items)) + b"".join(
                self._value(inner, v) for v in items)
        return struct.pack(FORMATS[kind], value)

    def build(self, n_tensors=None, n_keys=None):
        out = b"GGUF" + struct.pack(
            "<IQQ", self.version, len(self.tensors) if n_tensors is None else n_tensors,
            len(self.metadata) if n_keys is None else n_keys)
        for key, (kind, value) in self.metadata.items():
            out += self._string(key) + struct.pack("<I", kind) + self._value(kind, value)
        offset, body = 0, b""
        for name, dims, kind, data in self.tensors:
            out += self._string(name) + struct.pack("<I", len(dims))
            out += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)
            padded = bytes(data) + bytes(-len(data) % 32)
            body += padded
            offset += len(padded)
        return out + bytes(-len(out) % 32) + body


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    n = struct.unpack_from("<Q", data)[0]
    return json.loads(data[8:8 + n]), bytearray(data[8 + n:])


def build_safetensors(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)
