#!/usr/bin/env python3
"""Speed of llama.cpp through llama-cpp-python's low-level API, one JSON line per measure.

Runs inside the environment of setup_llama_cpp_python.sh. Measures what llama-bench measures, in its
field names: prefill of n_prompt tokens into an empty cache, and n_gen single-token steps behind
n_depth tokens, without tokenizer, sampling and loading. The cache is filled as depth_bench.cc does
it: 512 tokens are computed, their saved state is loaded again and again and given to one sequence.
With --check-text FILE it first prints the perplexity of that text, since a fast engine with wrong
numbers is no yardstick.
"""
import argparse
import ctypes
import json
import math
import os
import sys
import time

import llama_cpp
from llama_cpp import llama_cpp as api

WARM_UP_STEPS = 2
MOST_COPIED = 512  # tokens that are really computed before states are copied


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--n-prompt", type=int, default=512, help="0: no prefill measure")
    parser.add_argument("-n", "--n-gen", type=int, default=32, help="0: no decode measure")
    parser.add_argument("-d", "--n-depth", default="0", help="depths of decode, comma-separated")
    parser.add_argument("-b", "--n-batch", type=int, default=512)
    parser.add_argument("-ctk", "--type-k", default="f16")
    parser.add_argument("-ctv", "--type-v", default="f16")
    parser.add_argument("-fa", "--flash-attn", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--fill", choices=("copy", "prefill"), default="copy",
                        help="how the cache gets to a depth")
    parser.add_argument("--check-text", help="file whose perplexity is printed first")
    return parser.parse_args()


def ggml_type(name):
    value = getattr(api, "GGML_TYPE_" + name.upper(), None)
    if value is None:
        sys.exit(f"peer: cache type: expected a ggml type such as f16 or q8_0, found {name}")
    return int(value)


class Peer:
    def __init__(self, args, n_ctx):
        self.args = args
        # The API logs to stderr; keep errors only by dropping everything unless asked for.
        self.log = api.llama_log_callback(lambda level, text, user: None)
        if "PEER_LOG" not in os.environ:
            api.llama_log_set(self.log, ctypes.c_void_p(0))
        api.llama_backend_init()
        model_params = api.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(args.model.encode(), model_params)
        if not self.model:
            sys.exit(f"peer: {args.model}: llama.cpp could not load it (PEER_LOG=1 shows why)")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.n_vocab = api.llama_vocab_n_tokens(self.vocab)
        params = api.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = args.n_batch
        params.n_seq_max = 2
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = args.threads
        params.type_k, params.type_v = ggml_type(args.type_k), ggml_type(args.type_v)
        params.flash_attn_type = {"auto": api.LLAMA_FLASH_ATTN_TYPE_AUTO,
                                  "on": api.LLAMA_FLASH_ATTN_TYPE_ENABLED,
                                  "off": api.LLAMA_FLASH_ATTN_TYPE_DISABLED}[args.flash_attn]
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit("peer: llama.cpp could not make a context (PEER_LOG=1 shows why)")

    def tokens(self, n, seed=1):
        """The ids every engine of compare.py could draw: spread over the vocabulary, no pattern."""
        out = (api.llama_token * n)()
        for i in range(n):
            seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            out[i] = (seed >> 33) % self.n_vocab
        return out

    def clear(self):
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def decode(self, tokens):
        n = len(tokens)
        for first in range(0, n, self.args.n_batch):
            part = (api.llama_token * min(self.args.n_batch, n - first))(
                *tokens[first:first + self.args.n_batch])
            code = api.llama_decode(self.context, api.llama_batch_get_one(part, len(part)))
            if code != 0:
                sys.exit(f"peer: llama_decode: expected 0, found {code}")
        api.llama_synchronize(self.context)

    def timed(self, run):
        start = time.perf_counter_ns()
        run()
        return time.perf_counter_ns() - start

    def prefill(self, n):
        tokens = self.tokens(n)
        self.clear()
        return self.timed(lambda: self.decode(tokens))

    def fill(self, depth):
        first = depth if self.args.fill == "prefill" else min(depth, MOST_COPIED)
        if first:
            self.decode(self.tokens(first))
        held, memory = first, api.llama_get_memory(self.context)
        if held + MOST_COPIED <= depth:
            size = api.llama_state_seq_get_size(self.context, 0)
            state = (ctypes.c_uint8 * size)()
            api.llama_state_seq_get_data(self.context, state, size, 0)
        while held + MOST_COPIED <= depth:
            if api.llama_state_seq_set_data(self.context, state, size, 1) == 0:
                sys.exit(f"peer: cannot load a state after {held} tokens")
            api.llama_memory_seq_cp(memory, 1, 0, -1, -1)
            api.llama_memory_seq_rm(memory, 1, -1, -1)
            held += MOST_COPIED
        if held < depth:
            self.decode(self.tokens(depth - held, seed=4))

    def generate(self, depth, n):
        """Nanoseconds of n single-token steps behind depth tokens."""
        self.clear()
        self.fill(depth)
        for token in self.tokens(WARM_UP_STEPS, seed=2):
            self.decode([token])
        steps = [(api.llama_token * 1)(token) for token in self.tokens(n, seed=3)]
        batches = [api.llama_batch_get_one(step, 1) for step in steps]

        def run(batch):
            if api.llama_decode(self.context, batch) != 0:
                sys.exit("peer: llama_decode failed")
            api.llama_synchronize(self.context)
        return [self.timed(lambda batch=batch: run(batch)) for batch in batches]

    def perplexity(self, text):
        data = text.encode()
        tokens = (api.llama_token * (len(data) + 8))()
        n = api.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), True, False)
        self.clear()
        nll = 0.0
        for i in range(n - 1):
            self.decode([tokens[i]])
            logits = api.llama_get_logits(self.context)[:self.n_vocab]
            top = max(logits)
            log_sum = top + math.log(math.fsum(math.exp(x - top) for x in logits))
            nll += log_sum - logits[tokens[i + 1]]
        return n, math.exp(nll / (n - 1))


def report(args, n_prompt, n_gen, depth, step_ns):
    n, elapsed_ns = n_prompt or n_gen, sum(step_ns)
    print(json.dumps({
        "engine": "llama-cpp-python " + llama_cpp.__version__,
        "model_filename": args.model, "n_threads": args.threads, "n_batch": args.n_batch,
        "type_k": args.type_k, "type_v": args.type_v, "flash_attn": args.flash_attn,
        "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": depth,
        "depth_fill": args.fill if depth else "none",
        "avg_ns": elapsed_ns, "avg_ts": n * 1e9 / elapsed_ns, "step_ns": step_ns,
        "samples_ns": [elapsed_ns], "samples_ts": [n * 1e9 / elapsed_ns]}), flush=True)


def main():
    args = parse_args()
    depths = [int(d) for d in args.n_depth.split(",")]
    n_ctx = max(max(depths) + args.n_gen + WARM_UP_STEPS, args.n_prompt, 512)
    peer = Peer(args, n_ctx)
    if args.check_text:
        with open(args.check_text, encoding="utf-8") as file:
            n, value = peer.perplexity(file.read())
        print(json.dumps({"check": "perplexity", "n_tokens": n, "ppl": value}), flush=True)
    peer.decode(peer.tokens(min(64, args.n_batch)))  # touches weights and wakes the threads
    if args.n_prompt:
        report(args, args.n_prompt, 0, 0, [peer.prefill(args.n_prompt)])
    if args.n_gen:
        for depth in depths:
            report(args, 0, args.n_gen, depth, peer.generate(depth, args.n_gen))


if __name__ == "__main__":
    main()
