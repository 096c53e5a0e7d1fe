#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden numbers of this folder: layers in plain PyTorch, whole tiny models from transformers and in plain PyTorch.

All arithmetic is float32 on the CPU with fixed seeds. Needed neither to build nor to test; run it again only to change the cases:
    python3 -m venv oracle && oracle/bin/pip install torch transformers safetensors numpy && oracle/bin/python generate.py
"""
import json
import pathlib
import platform

import numpy
import safetensors
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
IGNORED = -100
GAP = 2e-2  # smallest difference of two neighbouring router logits where the order matters: rounding cannot change a choice


def rms_norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rope(x, positions, theta):
    """Rotate-half on x [T, heads, F]."""
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * rates  # [T, F/2]
    c, s = angles.cos().float()[:, None], angles.sin().float()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


def attention(x, p, heads, kv_heads, width, positions, document, theta, epsilon, norm):
    """Causal attention inside each document; p holds query, key, value, output [out, in] and the norms' weights."""
    tokens = x.shape[0]
    q, k, v = x @ p["query"].T, x @ p["key"].T, x @ p["value"].T
    if norm == "full_width":
        q, k = rms_norm(q, p["query_norm"], epsilon), rms_norm(k, p["key_norm"], epsilon)
    q, k, v = q.view(tokens, heads, width), k.view(tokens, kv_heads, width), v.view(tokens, kv_heads, width)
    if norm == "per_head":
        q, k = rms_norm(q, p["query_norm"], epsilon), rms_norm(k, p["key_norm"], epsilon)
    q, k = rope(q, positions, theta), rope(k, positions, theta)
    k, v = k.repeat_interleave(heads // kv_heads, 1), v.repeat_interleave(heads // kv_heads, 1)
    scores = torch.einsum("thf,shf->hts", q, k) / width**0.5
    order = torch.arange(tokens)
    visible = (document[:, None] == document[None, :]) & (order[:, None] >= order[None, :])
    scores = scores.masked_fill(~visible, float("-inf"))
    mixed = torch.einsum("hts,shf->thf", scores.softmax(-1), v)
    return mixed.reshape(tokens, -1) @ p["output"].T


def swiglu(x, gate_up, down):
    gate, up = (x @ gate_up.T).chunk(2, -1)
    return (F.silu(gate) * up) @ down.T


def route(logits, active, normalise, scale):
    """ids and weights [T, K] by falling probability, probabilities [T, E]."""
    s = logits.softmax(-1)
    weights, ids = s.topk(active, -1)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return ids, weights * scale, s


def moe(x, p, active, normalise, scale, balance=0.0):
    """DeepSeekMoE layer and its auxiliary loss: routed experts one by one, and the shared experts as one block."""
    ids, weights, s = route(x @ p["router"].T, active, normalise, scale)
    y = swiglu(x, p["shared.gate_up"], p["shared.down"]) if "shared.down" in p else torch.zeros_like(x)
    experts = p["router"].shape[0]
    for e in range(experts):
        token, slot = (ids == e).nonzero(as_tuple=True)
        out = swiglu(x[token], p["gate_up"][e], p["down"][e])
        y = y.index_add(0, token, weights[token, slot, None] * out)
    frequency = torch.bincount(ids.flatten(), minlength=experts) * experts / (active * x.shape[0])
    return y, balance * (frequency * s.mean(0)).sum(), ids


def gap(logits, active):
    """Smallest difference between neighbours among the K + 1 largest logits of any row."""
    top = logits.sort(-1, descending=True).values[..., : active + 1]
    return (top[..., :-1] - top[..., 1:]).min().item()


class Case:
    """Collects tensors of one layer under `name/`, with the gradients of <y, dy> + extra for every input."""

    def __init__(self, store, name):
        self.store, self.name = store, name

    def put(self, **tensors):
        for key, value in tensors.items():
            self.store[f"{self.name}/{key}"] = value.detach().clone().contiguous()

    def run(self, inputs, forward):
        inputs = {key: value.clone().requires_grad_(True) for key, value in inputs.items()}
        y, extra = forward(inputs)
        dy = torch.randn_like(y)
        ((y * dy).sum() + extra).backward()
        self.put(y=y, dy=dy, **inputs)
        self.put(**{f"d_{key}": value.grad for key, value in inputs.items()})


def matrix(rows, columns, factor=1.0):
    return torch.randn(rows, columns) * factor / columns**0.5


def layer_cases():
    store = {}
    torch.manual_seed(1)
    Case(store, "rms_norm").run({"x": torch.randn(5, 12), "weight": 1 + 0.3 * torch.randn(12)},
                                lambda i: (rms_norm(i["x"], i["weight"], 1e-5), 0.0))

    torch.manual_seed(2)
    case = Case(store, "rope")
    positions = torch.tensor([0, 1, 2, 100, 3, 1999], dtype=torch.int32)
    case.run({"x": torch.randn(6, 2, 8)}, lambda i: (rope(i["x"], positions, 10000.0), 0.0))
    case.put(positions=positions)

    document = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])
    for seed, norm in enumerate(["none", "per_head", "full_width"], start=3):
        torch.manual_seed(seed)
        inputs = {"x": torch.randn(9, 12), "query": matrix(24, 12, 2), "key": matrix(12, 12, 2), "value": matrix(12, 12),
                  "output": matrix(12, 24)}
        if norm != "none":
            inputs["query_norm"] = 1 + 0.3 * torch.randn(6 if norm == "per_head" else 24)
            inputs["key_norm"] = 1 + 0.3 * torch.randn(6 if norm == "per_head" else 12)
        Case(store, f"attention_{norm}").run(
            inputs, lambda i: (attention(i["x"], i, 4, 2, 6, positions, document, 10000.0, 1e-6, norm), 0.0))

    torch.manual_seed(7)
    Case(store, "swiglu").run({"x": torch.randn(7, 10), "gate_up": matrix(12, 10, 2), "down": matrix(10, 6)},
                              lambda i: (swiglu(i["x"], i["gate_up"], i["down"]), 0.0))

    for name, normalise, scale in [("plain", False, 1.0), ("normalised", True, 1.0), ("scaled", False, 2.5), ("both", True, 2.5)]:
        seed = 100
        while True:  # logits whose order is not a matter of rounding
            torch.manual_seed(seed)
            logits = 2 * torch.randn(6, 8)
            if gap(logits, 3) > GAP:
                break
            seed += 1
        d_probabilities = torch.randn(6, 8)
        case = Case(store, f"router_{name}")

        def forward(i, case=case, d_probabilities=d_probabilities, normalise=normalise, scale=scale):
            ids, weights, s = route(i["logits"], 3, normalise, scale)
            case.put(ids=ids.int(), probabilities=s, d_probabilities=d_probabilities)
            return weights, (s * d_probabilities).sum()

        case.run({"logits": logits}, forward)

    for name, normalise, scale, shared, balance in [("plain", False, 1.0, False, 0.0), ("shared", False, 1.0, True, 0.0),
                                                    ("normalised", True, 1.0, True, 0.0), ("scaled_balanced", False, 2.5, True, 0.3)]:
        seed = 200
        while True:
            torch.manual_seed(seed)
            inputs = {"x": torch.randn(11, 10), "router": matrix(6, 10, 2), "gate_up": torch.randn(6, 8, 10) * 0.6,
                      "down": torch.randn(6, 10, 4) * 0.5}
            if shared:
                inputs["shared.gate_up"], inputs["shared.down"] = matrix(16, 10, 2), matrix(10, 8)
            if gap(inputs["x"] @ inputs["router"].T, 2) > GAP:
                break
            seed += 1
        case = Case(store, f"moe_{name}")

        def forward(i, case=case, normalise=normalise, scale=scale, balance=balance):
            y, loss, ids = moe(i["x"], i, 2, normalise, scale, balance)
            case.put(ids=ids.int(), balance_loss=torch.as_tensor(loss).reshape(1))
            return y, loss

        case.run(inputs, forward)

    torch.manual_seed(9)
    case = Case(store, "head")
    labels = torch.tensor([3, IGNORED, 0, 12, 12, IGNORED, 7, 1, IGNORED])
    x, head = torch.randn(9, 10).requires_grad_(True), matrix(13, 10, 3).requires_grad_(True)
    loss = F.cross_entropy(x @ head.T, labels, ignore_index=IGNORED, reduction="sum")
    (0.25 * loss).backward()
    case.put(x=x, head=head, labels=labels.int(), loss=loss.reshape(1), d_x=x.grad, d_head=head.grad)
    return store


def unfuse(tensors):
    """Per-expert names, whatever the installed transformers calls its parameters in memory."""
    result = {}
    for name, value in tensors.items():
        if name.endswith(".experts.gate_up_proj"):
            for e, expert in enumerate(value):
                gate, up = expert.chunk(2, 0)
                result[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate
                result[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up
        elif name.endswith(".experts.down_proj"):
            for e, expert in enumerate(value):
                result[name.replace("down_proj", f"{e}.down_proj.weight")] = expert
        else:
            result[name] = value
    return {name: value.detach().clone().contiguous() for name, value in result.items()}


def fill(named_parameters):
    """Weights with which every part matters, and router logits that lie far apart."""
    for name, p in named_parameters:
        if p.dim() == 1:
            p.data = 1 + 0.2 * torch.randn_like(p)
        else:
            factor = p.shape[-1] ** 0.5 if "embed" in name else 3.0 if name.endswith(".gate.weight") else 1.0
            p.data = torch.randn_like(p) * factor / p.shape[-1] ** 0.5


TOKENS = torch.tensor([[5, 17, 2, 30, 11, 0, 23], [9, 9, 28, 1, 14, 6, 19]])
LABELS = torch.tensor([[17, 2, IGNORED, 11, 0, 23, IGNORED], [IGNORED, 28, 1, 14, 6, 19, 3]])


def write_model(folder, tensors, logits, gradients, routing, config=None):
    """`routing`: ids and weights [T, K] of each layer that routes; in the file each token's are sorted by expert."""
    loss = F.cross_entropy(logits.detach().reshape(-1, logits.shape[-1]), LABELS.flatten(), ignore_index=IGNORED, reduction="sum")
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    golden = {"tokens": TOKENS.int(), "labels": LABELS.int(), "logits": logits.detach().clone().contiguous(), "loss": loss.reshape(1)}
    golden.update({f"d_{name}": value for name, value in gradients.items()})
    for layer, (ids, weights) in routing.items():
        order = ids.argsort(-1)
        golden[f"routing.{layer}.ids"] = ids.gather(1, order).int()
        golden[f"routing.{layer}.weights"] = weights.detach().gather(1, order).contiguous()
    save_file(golden, folder / "golden.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def transformers_model(model_class, config, folder):
    """Saved by save_pretrained; the gradient is that of the summed loss over labelled tokens."""
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    for seed in range(1000):
        torch.manual_seed(seed)
        model = model_class(config).float().train()
        fill(model.named_parameters())
        gaps, routing = [], {}
        for layer, block in enumerate(model.model.layers):
            for module in block.modules():
                if type(module).__name__.endswith("Router"):
                    module.register_forward_hook(lambda m, args, output, layer=layer: routing.update({layer: output[1:]}))
        active = config.num_experts_per_tok
        for module in model.modules():
            if type(module).__name__.endswith("SparseMoeBlock"):
                module.register_forward_pre_hook(
                    lambda m, args: gaps.append(gap(args[0].reshape(-1, args[0].shape[-1]) @ m.gate.weight.T, active)))
        logits = model(input_ids=TOKENS, use_cache=False).logits
        assert gaps and len(gaps) == len(routing), "a router was not seen"
        if min(gaps) > GAP:
            break
    else:
        raise RuntimeError("no seed keeps the router's choices apart")
    F.cross_entropy(logits.reshape(-1, logits.shape[-1]), LABELS.flatten(), ignore_index=IGNORED, reduction="sum").backward()
    gradients = unfuse({name: p.grad for name, p in model.named_parameters()})
    weights = unfuse(dict(model.named_parameters()))
    model.save_pretrained(folder)
    with safetensors.safe_open(folder / "model.safetensors", "pt") as saved:
        written = set(saved.keys())
    per_expert = written == set(weights)
    print(f"{folder.name}: seed {seed}, smallest gap {min(gaps):.3f}, save_pretrained writes per-expert names: {per_expert}")
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_model(folder, weights, logits, gradients, {layer: (ids, chosen) for layer, (chosen, ids) in routing.items()})


def deepseek_model(folder, **changes):
    """The first generation of DeepSeekMoE: plain attention, dense layers, routed and shared experts; `changes` to its configuration."""
    config = {
        "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "vocab_size": 32, "hidden_size": 16,
        "intermediate_size": 20, "moe_intermediate_size": 6, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "norm_topk_prob": False, "scoring_func": "softmax", "aux_loss_alpha": 0.001, "hidden_act": "silu", "attention_bias": False,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1,
    } | changes
    D, E, width, kv = 16, 8, 4, config["num_key_value_heads"]
    shared, tied, active, normalise = (config[key] for key in
                                       ["n_shared_experts", "tie_word_embeddings", "num_experts_per_tok", "norm_topk_prob"])
    shapes = {"model.embed_tokens.weight": (32, D), "model.norm.weight": (D,)} | ({} if tied else {"lm_head.weight": (32, D)})

    def routes(l):
        return l >= config["first_k_dense_replace"] and l % config["moe_layer_freq"] == 0

    for l in range(3):
        layer = f"model.layers.{l}."
        shapes |= {layer + "input_layernorm.weight": (D,), layer + "post_attention_layernorm.weight": (D,),
                   layer + "self_attn.q_proj.weight": (16, D), layer + "self_attn.k_proj.weight": (width * kv, D),
                   layer + "self_attn.v_proj.weight": (width * kv, D), layer + "self_attn.o_proj.weight": (D, 16)}
        blocks = {"mlp.": 20}
        if routes(l):
            blocks = ({"mlp.shared_experts.": 6 * shared} if shared else {}) | {f"mlp.experts.{e}.": 6 for e in range(E)}
        for block, inner in blocks.items():
            shapes |= {layer + block + "gate_proj.weight": (inner, D), layer + block + "up_proj.weight": (inner, D),
                       layer + block + "down_proj.weight": (D, inner)}
        if routes(l):
            shapes[layer + "mlp.gate.weight"] = (E, D)

    def forward(w, tokens, gaps, routing):
        x = w["model.embed_tokens.weight"][tokens]
        positions, document = torch.arange(len(tokens)), torch.zeros(len(tokens))
        for l in range(3):
            layer = f"model.layers.{l}."
            p = {role: w[f"{layer}self_attn.{short}_proj.weight"]
                 for role, short in [("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")]}
            normed = rms_norm(x, w[layer + "input_layernorm.weight"], 1e-6)
            x = x + attention(normed, p, 4, kv, width, positions, document, 10000.0, 1e-6, "none")
            normed = rms_norm(x, w[layer + "post_attention_layernorm.weight"], 1e-6)

            def block(prefix):
                return torch.cat([w[prefix + "gate_proj.weight"], w[prefix + "up_proj.weight"]]), w[prefix + "down_proj.weight"]

            if not routes(l):
                x = x + swiglu(normed, *block(layer + "mlp."))
                continue
            experts = [block(f"{layer}mlp.experts.{e}.") for e in range(E)]
            m = {"router": w[layer + "mlp.gate.weight"], "gate_up": [g for g, _ in experts], "down": [d for _, d in experts]}
            if shared:
                m["shared.gate_up"], m["shared.down"] = block(layer + "mlp.shared_experts.")
            gaps.append(gap(normed @ m["router"].T, active))
            routing.setdefault(l, []).append(route(normed @ m["router"].T, active, normalise, 1.0)[:2])
            x = x + moe(normed, m, active, normalise, 1.0)[0]
        return rms_norm(x, w["model.norm.weight"], 1e-6) @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    for seed in range(1000):
        torch.manual_seed(seed)
        w = {name: torch.empty(shape, requires_grad=True) for name, shape in shapes.items()}
        fill(w.items())
        gaps, routing = [], {}
        logits = torch.stack([forward(w, tokens, gaps, routing) for tokens in TOKENS])
        if min(gaps) > GAP:
            break
    else:
        raise RuntimeError("no seed keeps the router's choices apart")
    F.cross_entropy(logits.reshape(-1, 32), LABELS.flatten(), ignore_index=IGNORED, reduction="sum").backward()
    print(f"{folder.name}: seed {seed}, smallest gap {min(gaps):.3f}")
    decided = {layer: tuple(torch.cat(part) for part in zip(*of_tokens)) for layer, of_tokens in routing.items()}
    write_model(folder, {name: p.detach().contiguous() for name, p in w.items()}, logits, {name: p.grad for name, p in w.items()}, decided,
                config)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    save_file(layer_cases(), HERE / "layers.safetensors")
    common = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_experts": 8,
              "num_experts_per_tok": 2, "max_position_embeddings": 128, "router_aux_loss_coef": 0.0, "bos_token_id": 0, "eos_token_id": 1,
              "pad_token_id": None}
    transformers_model(transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(
        **common, num_key_value_heads=2, head_dim=8, intermediate_size=20, moe_intermediate_size=6, norm_topk_prob=True,
        mlp_only_layers=[1], tie_word_embeddings=True), HERE / "qwen3_moe")
    transformers_model(transformers.OlmoeForCausalLM, transformers.OlmoeConfig(
        **common, num_key_value_heads=4, intermediate_size=6, norm_topk_prob=False, tie_word_embeddings=False), HERE / "olmoe")
    deepseek_model(HERE / "deepseek")
    deepseek_model(HERE / "deepseek_normalised", num_key_value_heads=4, n_shared_experts=None, num_experts_per_tok=2,
                   first_k_dense_replace=0, moe_layer_freq=2, norm_topk_prob=True, tie_word_embeddings=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
                "safetensors": safetensors.__version__, "numpy": numpy.__version__}
    kept = [line for line in (HERE / "VERSIONS.txt").read_text().splitlines() if line.split()[0] not in versions]  # of the other generators
    (HERE / "VERSIONS.txt").write_text("".join(f"{name} {version}\n" for name, version in versions.items()) + "\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
