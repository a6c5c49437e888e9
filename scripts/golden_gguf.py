"""GGUF files for the tiny golden models: tensor names, Q/K permutation, keys, quantized blocks.

Used by make_golden_models.py. Follows the facts of the GGUF format: llama-family Q and K rows are
stored so that RoPE pairs lie side by side, rope_freqs.weight divides the frequencies (llama3).
"""

import math

import gguf
import numpy as np
import torch

K_QUANTS = {  # type: (block bytes, offset of each f16 scale, offset of each f16 minimum)
    gguf.GGMLQuantizationType.Q4_K: (144, 0, 2),
    gguf.GGMLQuantizationType.Q5_K: (176, 0, 2),
    gguf.GGMLQuantizationType.Q6_K: (210, 208, None),
}
LAYER_TENSORS = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(hf_name):
    """'model.layers.1.self_attn.q_proj.weight' -> 'blk.1.attn_q.weight'."""
    if hf_name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if hf_name == "model.norm.weight":
        return "output_norm.weight"
    if hf_name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = hf_name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[rest]}"


def to_interleaved(w, n_heads):
    """Rows of each head from Hugging Face halves (j, j + D/2) to neighbours (2j, 2j+1)."""
    shape = w.shape
    return w.reshape(n_heads, 2, shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(shape)


def from_interleaved(w, n_heads):
    """Inverse of to_interleaved."""
    shape = w.shape
    return w.reshape(n_heads, shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)


def heads_of(name, config):
    """Head count when the tensor is a Q or K projection, else None."""
    if ".q_proj." in name:
        return config.num_attention_heads
    if ".k_proj." in name:
        return config.num_key_value_heads
    return None


def llama3_factors(config):
    """Divisors of the RoPE frequencies for rope_type llama3, float32 [head_dim / 2]."""
    p = config.rope_parameters
    dim = config.head_dim
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * p["rope_theta"] ** (i / dim)
        original = p["original_max_position_embeddings"]
        if wavelength < original / p["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > original / p["low_freq_factor"]:
            factors.append(p["factor"])
        else:
            smooth = (original / wavelength - p["low_freq_factor"]) / (
                p["high_freq_factor"] - p["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / p["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def random_blocks(shape, qtype, std, rng):
    """A matrix [rows, cols] of random blocks of `qtype` with values of about the given deviation.

    K-quants have no quantizer in the gguf package: every byte of codes and scales is random, which
    reaches all bit patterns, and the f16 factors are chosen for the wanted deviation. The minimum
    of Q4_K and Q5_K is set so that values have mean zero. The other types quantize normal numbers.
    """
    if qtype not in K_QUANTS:
        return gguf.quantize(rng.normal(0, std, shape).astype(np.float32), qtype)
    size, at_scale, at_min = K_QUANTS[qtype]
    n_blocks = shape[0] * shape[1] // 256
    blocks = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
    mean_code = {gguf.GGMLQuantizationType.Q4_K: 7.5, gguf.GGMLQuantizationType.Q5_K: 15.5}

    def put(at, values):
        blocks[:, at:at + 2] = values.astype("<f2").view(np.uint8).reshape(n_blocks, 2)

    spread = rng.uniform(0.5, 1.5, n_blocks)
    for unit in (2.0**-10, None):  # first pass measures the deviation, second pass sets it
        if unit is None:
            rows = blocks.reshape(shape[0], -1)
            unit = 2.0**-10 * std / gguf.dequantize(rows, qtype).std()
        put(at_scale, unit * spread)
        if at_min is not None:
            put(at_min, unit * spread * mean_code[qtype])
    return blocks.reshape(shape[0], -1)


def add_metadata(writer, config, arch, name, tokenizer, rope_freqs):
    """General, architecture and tokenizer keys."""
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads)
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope_type = config.rope_parameters["rope_type"]
    if rope_type in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_type))
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        if rope_type == "yarn":
            writer.add_rope_scaling_orig_ctx_len(
                config.rope_parameters["original_max_position_embeddings"])
    elif rope_type != "default" and not rope_freqs:
        raise ValueError(f"rope type {rope_type} cannot be written as GGUF keys")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer["pre"])
    writer.add_token_list(tokenizer["tokens"])
    writer.add_token_types(tokenizer["types"])
    writer.add_token_merges(tokenizer["merges"])
    writer.add_bos_token_id(tokenizer["bos"])
    writer.add_eos_token_id(tokenizer["eos"])
    writer.add_add_bos_token(False)


def write_gguf(path, arch, name, config, tensors, tokenizer, rope_freqs=False, split=0):
    """Writes one file, or parts of `split` tensors each.

    tensors: Hugging Face name -> float array, or (blocks, type) already in GGUF row order.
    """
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    add_metadata(writer, config, arch, name, tokenizer, rope_freqs)
    for hf_name, value in tensors.items():
        if isinstance(value, tuple):
            writer.add_tensor(gguf_name(hf_name), value[0], raw_dtype=value[1])
            continue
        n_heads = heads_of(hf_name, config)
        if arch == "llama" and n_heads:
            value = to_interleaved(value, n_heads)
        if value.ndim == 1:
            value = value.astype(np.float32)
        writer.add_tensor(gguf_name(hf_name), np.ascontiguousarray(value))
    if rope_freqs:
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized_tensors(model, types, rng):
    """Replaces the model's matrices by random blocks of the given types.

    Returns the tensors for write_gguf; the model gets the dequantized values in Hugging Face order.
    types: cycle of gguf types for the layer matrices, in state-dict order; those whose rows are no
    multiple of 256 take the 32-element types. The embedding is Q6_K.
    """
    out, config, state = {}, model.config, model.state_dict()
    turn = {True: 0, False: 0}
    for name, w in state.items():
        if name == "lm_head.weight":
            continue
        if w.ndim == 1:
            out[name] = w.numpy()
            continue
        if name == "model.embed_tokens.weight":
            qtype = gguf.GGMLQuantizationType.Q6_K
        else:
            wide = w.shape[1] % 256 == 0
            usable = [t for t in types if wide or t not in K_QUANTS]
            qtype = usable[turn[wide] % len(usable)]
            turn[wide] += 1
        blocks = random_blocks(tuple(w.shape), qtype, float(w.std()), rng)
        values = gguf.dequantize(blocks, qtype).astype(np.float32)
        n_heads = heads_of(name, config)
        if n_heads:
            values = from_interleaved(values, n_heads)
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
        out[name] = (blocks, qtype)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return out
