#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden models of further families beside those of generate.py, whose packages, seeds' rule and tokens they share.

Weights and gradients have the names that save_pretrained gives them; `routing.<layer>.ids` and `.weights` [T, K] are the decisions.
Where transformers leaves the authors' mathematics, a class below puts it back; the comment there says what differs.
"""
import json
import math
import pathlib
import shutil
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.deepseek_v2 import modeling_deepseek_v2

from generate import HERE, IGNORED, LABELS, TOKENS

COMMON = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128,
          "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "tie_word_embeddings": False}
SMALL = COMMON | {"hidden_size": 8, "num_hidden_layers": 2}  # for further configurations of a family: a few kB each
LATENT = {"num_key_value_heads": 4, "intermediate_size": 20, "moe_intermediate_size": 6, "kv_lora_rank": 10, "qk_nope_head_dim": 6,
          "qk_rope_head_dim": 8, "v_head_dim": 5, "first_k_dense_replace": 1, "n_routed_experts": 8}

STRETCHED = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}  # a ramp over all four rates


def fill(model):
    """Weights with which every part matters, and router logits that lie far apart."""
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if "inv_freq" in name:
            continue
        if "correction_bias" in name:
            p.data = 0.3 * torch.randn_like(p)
        elif name.endswith("bias") or name.endswith("sinks"):
            p.data = 0.5 * torch.randn_like(p)
        elif p.dim() == 1:
            p.data = 1 + 0.2 * torch.randn_like(p)
        else:
            router = name.endswith("gate.weight") or name.endswith("router.weight")
            factor = p.shape[-1] ** 0.5 if "embed" in name else 3.0 if router else 1.0
            p.data = torch.randn_like(p) * factor / p.shape[-1] ** 0.5


def ids_of(decision):
    return decision[2].sort(-1).values


def is_router(module):
    return type(module).__name__.endswith("Router")


def decisions(model):
    """Routing of every layer that has one, and whether small changes of its input would change no choice."""
    found, steady = {}, []

    def observe(layer, module, args, output):
        with torch.no_grad():
            found[layer] = output
            for _ in range(16):
                moved = module.forward(args[0] * (1 + 5e-3 * torch.randn_like(args[0])))
                steady.append(torch.equal(ids_of(moved), ids_of(output)))

    for layer, block in enumerate(model.model.layers):
        for module in block.modules():
            if is_router(module):
                module.register_forward_hook(lambda m, args, output, layer=layer: observe(layer, m, args, output))
    return found, steady


def saved_tensors(model, together):
    """What save_pretrained writes, or with `together` what transformers holds: all experts of a layer in one tensor."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        tensors = load_file(pathlib.Path(folder) / "model.safetensors")
    if together:
        tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
        tensors = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items() if name not in tied}
    return tensors, config


def write(folder, model_class, config, as_published=None, together=False):
    """`as_published` changes what transformers writes into config.json to what the published checkpoints say."""
    folder = HERE / folder
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    for seed in range(5000):
        torch.manual_seed(seed)
        model = model_class(config).float().train()
        fill(model)
        found, steady = decisions(model)
        logits = model(input_ids=TOKENS, use_cache=False).logits
        assert steady, "no router was seen"
        if all(steady):
            break
    else:
        raise RuntimeError("no seed keeps the router's choices apart")
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), LABELS.flatten(), ignore_index=IGNORED, reduction="sum")
    loss.backward()
    weights, written = saved_tensors(model, together)
    buffers = {name for name, _ in model.named_buffers()}
    for p in model.parameters():
        p.data = p.grad
    gradients, _ = saved_tensors(model, together)
    if as_published is not None:
        as_published(written)
    written.pop("transformers_version", None)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    golden = {"tokens": TOKENS.int(), "labels": LABELS.int(), "logits": logits.detach().contiguous(), "loss": loss.detach().reshape(1)}
    golden |= {f"d_{name}": value for name, value in gradients.items() if name not in buffers}
    for layer, (_, chosen, ids) in found.items():
        order = ids.argsort(-1)
        golden[f"routing.{layer}.ids"] = ids.gather(1, order).int()
        golden[f"routing.{layer}.weights"] = chosen.detach().gather(1, order).contiguous()
    save_file(golden, folder / "golden.safetensors")
    print(f"{folder.name}: seed {seed}, {len(weights)} tensors, keys {sorted(weights)[3:6]}")


def yarn(config):
    """config.json as DeepSeek publishes it: rope_theta and rope_scaling where transformers 5 writes rope_parameters."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    config.pop("head_dim", None)
    config.pop("qk_head_dim", None)
    config |= {"scoring_func": "softmax", "moe_layer_freq": 1, "aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1,
               "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}}


def plain_yarn(config):
    """config.json as Qwen's model cards extend a context: rope_theta beside rope_scaling, which says what it has to and no more."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope


class AuthorsRouter(modeling_deepseek_v2.DeepseekV2TopkRouter):
    """transformers ignores norm_topk_prob and always scales; the authors' gate does one of the two."""

    def forward(self, hidden_states):
        logits, weights, ids = super().forward(hidden_states)
        weights = weights / self.routed_scaling_factor
        return logits, weights / (weights.sum(-1, keepdim=True) + 1e-20), ids


def deepseek_v2():
    lite = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
            "mscale_all_dim": 0.707, "original_max_position_embeddings": 64}
    write("deepseek_v2_lite", transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(
        **COMMON, **LATENT, q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3, topk_method="greedy", n_group=1, topk_group=1,
        norm_topk_prob=False, routed_scaling_factor=1.0, rope_parameters=lite), yarn)
    write("deepseek_v2_groups", transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(
        **COMMON, **LATENT, q_lora_rank=7, n_shared_experts=1, num_experts_per_tok=3, topk_method="group_limited_greedy", n_group=4,
        topk_group=2, norm_topk_prob=False, routed_scaling_factor=3.0))
    original = modeling_deepseek_v2.DeepseekV2TopkRouter
    modeling_deepseek_v2.DeepseekV2TopkRouter = AuthorsRouter
    uneven = lite | {"mscale": 1.0, "mscale_all_dim": 0.5, "factor": 8.0}
    write("deepseek_v2_normalised", transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(
        **COMMON, **(LATENT | {"v_head_dim": 10, "first_k_dense_replace": 0}), q_lora_rank=None, n_shared_experts=1, num_experts_per_tok=2,
        topk_method="greedy", norm_topk_prob=True, routed_scaling_factor=16.0, rope_parameters=uneven), yarn)
    modeling_deepseek_v2.DeepseekV2TopkRouter = original
    small = LATENT | {"num_key_value_heads": 2, "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
                      "moe_intermediate_size": 4, "n_routed_experts": 6, "intermediate_size": 10}
    write("deepseek_v2_tied", transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(
        **(SMALL | {"num_attention_heads": 2, "tie_word_embeddings": True}), **small, q_lora_rank=5, n_shared_experts=2,
        num_experts_per_tok=2, topk_method="group_limited_greedy", n_group=3, topk_group=2, norm_topk_prob=False,
        routed_scaling_factor=1.0))


def deepseek_v3():
    common = COMMON | {"num_hidden_layers": 3}
    write("deepseek_v3", transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(
        **common, **LATENT, q_lora_rank=7, n_shared_experts=1, num_experts_per_tok=3, n_group=4, topk_group=2, norm_topk_prob=True,
        routed_scaling_factor=2.5, num_mtp_layers=0))
    latent = LATENT | {"num_key_value_heads": 2, "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
                       "moe_intermediate_size": 4, "n_routed_experts": 6, "intermediate_size": 10}
    stretched = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
                 "mscale_all_dim": 1.0, "original_max_position_embeddings": 16}
    write("deepseek_v3_yarn", transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(
        **(SMALL | {"num_attention_heads": 2, "tie_word_embeddings": True}), **latent, q_lora_rank=None, n_shared_experts=2,
        num_experts_per_tok=2, n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.5, num_mtp_layers=0,
        rope_parameters=stretched))


def mixtral():
    write("mixtral", transformers.MixtralForCausalLM, transformers.MixtralConfig(
        **COMMON, num_key_value_heads=2, intermediate_size=6, num_local_experts=8, num_experts_per_tok=2, router_aux_loss_coef=0.02))
    write("mixtral_together", transformers.MixtralForCausalLM, transformers.MixtralConfig(
        **(SMALL | {"tie_word_embeddings": True}), num_key_value_heads=1, intermediate_size=4, num_local_experts=4, num_experts_per_tok=2),
        together=True)
    write("mixtral_yarn", transformers.MixtralForCausalLM, transformers.MixtralConfig(
        **(SMALL | {"hidden_size": 16}), num_key_value_heads=2, head_dim=8, intermediate_size=4, num_local_experts=4, num_experts_per_tok=2,
        rope_parameters=STRETCHED | {"attention_factor": 1.5, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False}))


def qwen2_moe():
    common = {**COMMON, "num_key_value_heads": 2, "intermediate_size": 20, "moe_intermediate_size": 6, "num_experts": 8,
              "shared_expert_intermediate_size": 10}
    write("qwen2_moe", transformers.Qwen2MoeForCausalLM, transformers.Qwen2MoeConfig(
        **common, num_experts_per_tok=3, norm_topk_prob=False))
    write("qwen2_moe_sparse", transformers.Qwen2MoeForCausalLM, transformers.Qwen2MoeConfig(
        **(common | {"tie_word_embeddings": True}), num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=2,
        mlp_only_layers=[2]))
    write("qwen2_moe_yarn", transformers.Qwen2MoeForCausalLM, transformers.Qwen2MoeConfig(
        **(SMALL | {"hidden_size": 16, "num_attention_heads": 2}), num_key_value_heads=1, intermediate_size=10, moe_intermediate_size=4,
        num_experts=4, shared_expert_intermediate_size=6, num_experts_per_tok=2, norm_topk_prob=True, qkv_bias=False,
        rope_parameters=STRETCHED), plain_yarn)


def qwen3_moe():
    write("qwen3_moe_together", transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(
        **SMALL, num_key_value_heads=4, head_dim=4, intermediate_size=10, moe_intermediate_size=4, num_experts=4, num_experts_per_tok=2,
        norm_topk_prob=False), together=True)
    write("qwen3_moe_yarn", transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, intermediate_size=10, moe_intermediate_size=4, num_experts=4, num_experts_per_tok=2,
        norm_topk_prob=True, rope_parameters=STRETCHED), plain_yarn)


def olmoe():
    write("olmoe_normalised", transformers.OlmoeForCausalLM, transformers.OlmoeConfig(
        **(SMALL | {"tie_word_embeddings": True}), num_key_value_heads=2, intermediate_size=4, num_experts=4, num_experts_per_tok=2,
        norm_topk_prob=True))
    write("olmoe_yarn", transformers.OlmoeForCausalLM, transformers.OlmoeConfig(
        **(SMALL | {"hidden_size": 16, "num_attention_heads": 2}), num_key_value_heads=1, intermediate_size=4, num_experts=4,
        num_experts_per_tok=2, norm_topk_prob=False, rope_parameters=STRETCHED), plain_yarn)


def gpt_oss():
    write("gpt_oss", transformers.GptOssForCausalLM, transformers.GptOssConfig(
        **COMMON, num_key_value_heads=2, head_dim=8, intermediate_size=6, num_local_experts=8, num_experts_per_tok=3, sliding_window=3,
        swiglu_limit=1.0))
    write("gpt_oss_plain", transformers.GptOssForCausalLM, transformers.GptOssConfig(
        **(SMALL | {"tie_word_embeddings": True}), num_key_value_heads=1, head_dim=4, intermediate_size=4, num_local_experts=4,
        num_experts_per_tok=2, attention_bias=False, layer_types=["full_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    families = [deepseek_v2, deepseek_v3, mixtral, qwen2_moe, qwen3_moe, olmoe, gpt_oss]
    for family in families:
        if len(sys.argv) < 2 or family.__name__ in sys.argv[1:]:
            family()


if __name__ == "__main__":
    main()
