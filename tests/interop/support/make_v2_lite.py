#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint with the names and shapes of DeepSeek-V2-Lite and random bf16 weights, some of its layers only (4 by default).

    python3 make_v2_lite.py DIR [LAYERS] [TOKENIZER.json]

Two shards with an index, config.json as published but for the number of layers, 4.5 GB for 4 layers. Needs numpy alone. To see what such a
model takes: esft score, select, train and merge on DIR.
"""
import json
import pathlib
import shutil
import sys

import numpy

D, I, DENSE, E, SHARED, HEADS, C, V = 2048, 1408, 10944, 64, 2, 16, 512, 102400
NOPE, ROPE, VALUE = 128, 64, 128


def shapes(layers):
    yield "model.embed_tokens.weight", (V, D)
    for l in range(layers):
        p = f"model.layers.{l}."
        yield p + "self_attn.q_proj.weight", (HEADS * (NOPE + ROPE), D)
        yield p + "self_attn.kv_a_proj_with_mqa.weight", (C + ROPE, D)
        yield p + "self_attn.kv_a_layernorm.weight", (C,)
        yield p + "self_attn.kv_b_proj.weight", (HEADS * (NOPE + VALUE), C)
        yield p + "self_attn.o_proj.weight", (D, HEADS * VALUE)
        yield p + "input_layernorm.weight", (D,)
        yield p + "post_attention_layernorm.weight", (D,)
        blocks = {"mlp.": DENSE} if l == 0 else {"mlp.shared_experts.": SHARED * I, **{f"mlp.experts.{e}.": I for e in range(E)}}
        if l > 0:
            yield p + "mlp.gate.weight", (E, D)
        for block, width in blocks.items():
            yield p + block + "gate_proj.weight", (width, D)
            yield p + block + "up_proj.weight", (width, D)
            yield p + block + "down_proj.weight", (D, width)
    yield "model.norm.weight", (D,)
    yield "lm_head.weight", (V, D)


def bf16(values):
    bits = values.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def write_shard(path, tensors, pool):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            count = int(numpy.prod(shape))
            if len(shape) == 1:
                file.write(bf16(numpy.ones(count)).tobytes())
                continue
            deviation = 1.0 if "embed" in name else 1 / shape[1] ** 0.5
            start = pool["next"]
            pool["next"] = (start + count) % 1000003
            scaled = bf16(pool["values"] * deviation)
            whole = numpy.resize(numpy.roll(scaled, -start), count)  # a long period is as good as fresh numbers here
            file.write(whole.tobytes())
    return offset


def main():
    folder = pathlib.Path(sys.argv[1])
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    folder.mkdir(parents=True, exist_ok=True)
    tensors = list(shapes(layers))
    pool = {"values": numpy.random.default_rng(0).standard_normal(4194301).astype(numpy.float32), "next": 0}
    half = len(tensors) // 2
    weight_map, total = {}, 0
    for number, part in enumerate([tensors[:half], tensors[half:]], start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        total += write_shard(folder / name, part, pool)
        weight_map |= {tensor: name for tensor, _ in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config = {
        "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001, "bos_token_id": 100000,
        "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": D, "initializer_range": 0.02,
        "intermediate_size": DENSE, "kv_lora_rank": C, "max_position_embeddings": 163840, "model_type": "deepseek_v2",
        "moe_intermediate_size": I, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": E, "n_shared_experts": SHARED,
        "norm_topk_prob": False, "num_attention_heads": HEADS, "num_experts_per_tok": 6, "num_hidden_layers": layers,
        "num_key_value_heads": HEADS, "pretraining_tp": 1, "q_lora_rank": None, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                         "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True, "tie_word_embeddings": False,
        "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True,
        "v_head_dim": VALUE, "vocab_size": V,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if len(sys.argv) > 3:
        shutil.copy(sys.argv[3], folder / "tokenizer.json")
    print(f"{folder}: {len(tensors)} tensors, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
