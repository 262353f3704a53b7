"""What a LoRA run's rows need of a GPU's memory, counted from the model's sizes: the trainer measures it once the model
is loaded.

A compiled layer keeps for backward: its input, the sum after attention, queries, keys and values as attention takes
them (and before their norms, where they have some), attention's output, and the hidden rows of the MLP or of the chosen
experts. Norms, rope, sums and SwiGLU are made again. Of rows on an H200 these counts were within 3 % (Qwen3 4B, 8B and
30B-A3B, trainer/bench/README.md); TRANSIENT comes from them, the rest is what the code keeps. Nothing was fitted to the
LoRA rows of `python3 -m tests.gpu.planned`: what a whole run was planned to take was 0.95 to 1.06 of what torch
had reserved and CUDA held beside it on one H100 of 80 GB, 0.98 and 1.03 on two, 0.98 and 1.04 on four.
"""

from trainer.schema.config import TrainConfig
from trainer.schema.memory_plan import Costs, MemoryPlan, choose, engine_bytes, planned
from trainer.schema.method import Lora
from trainer.schema.parameters import Shape, lora_parameters, rank_on_experts, total_parameters

WEIGHT_BYTES = {"bf16": 2, "fp32": 4}
"""Of one weight, and of one value that a layer computes, by train.precision."""
CHUNK = 256
"""Labels whose logits are held at once: 256 x 151,936 x 4 bytes = 156 MB for Qwen3."""
LOGIT_BYTES = 14
"""Of one logit, forward and backward: bf16, and in fp32 itself, its share and its gradient."""
BESIDE = 1.7 * 2**30
"""What CUDA, NCCL and the kernels' libraries hold beside torch on an H100 or H200: 1.68 to 1.77 GiB."""
TRANSIENT = 4.65
"""Times the MLP's hidden row: what backward of one layer holds for a moment (dense 4B and 8B: 4.6 and 4.7)."""
THINNEST = 16
"""Ranks on experts are padded to at least this."""


def hidden_width(shape: Shape) -> int:
    """Widest MLP row that one token has in a layer: of its experts together, of the plain one."""
    plain = shape.mlp_width if shape.mlp_layers else 0
    return max(plain, shape.experts_per_token * shape.expert_width + shape.shared_width)


def layer_bytes(shape: Shape, train: TrainConfig) -> float:
    """Bytes a token that all layers together keep for backward."""
    width = WEIGHT_BYTES[train.precision]
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    times = 3 if shape.qk_norm else 2  # a norm's input is kept, rope's is not: it is linear
    common = width * (2 * shape.hidden + times * (query + keys)) + 4 * shape.heads
    plain = width * 2 * shape.mlp_width
    # A choice: its number, weight, row and place; an expert: what the router thinks of it, twice.
    choices = 24 * shape.experts_per_token + 6 * shape.experts
    mixture = width * 2 * (shape.experts_per_token * shape.expert_width + shape.shared_width) + choices
    lora = train.lora
    total = shape.layers * common + shape.mlp_layers * plain + shape.expert_layers * mixture
    return total if lora is None else total + _adapter_bytes(shape, lora, width)


def _adapter_bytes(shape: Shape, lora: Lora, width: int) -> float:
    """Of the adapters: their thin products, and dropout's masks of a byte a value of each adapted layer's input."""
    targets = set(lora.linear_targets)
    query, drops = shape.heads * shape.head_dim, lora.dropout > 0
    inputs = {"q_proj": shape.hidden, "k_proj": shape.hidden, "v_proj": shape.hidden, "o_proj": query}
    attention = sum(width * lora.rank + size * drops for name, size in inputs.items() if name in targets)
    inputs = {"gate_proj": shape.hidden, "up_proj": shape.hidden, "down_proj": shape.mlp_width}
    mlp = sum(width * lora.rank + size * drops for name, size in inputs.items() if name in targets)
    thin = max(THINNEST, rank_on_experts(shape, lora))
    pairs = ("up_proj" in targets) + ("down_proj" in targets)
    experts = shape.experts_per_token * pairs * width * thin
    dense = 0 if shape.experts else shape.mlp_layers * mlp
    return shape.layers * attention + dense + shape.expert_layers * experts


def row_plan(shape: Shape, train: TrainConfig, free: float, tokens: int, longest: int) -> MemoryPlan:
    """The plan that trainer.startup.plan_memory will make where rows may use `free` bytes: of at most `tokens`, or as
    long as the `longest` item."""
    kept, all_recomputed = _slopes(shape, train)
    gradients, layers, wanted = 4.0 * trained_parameters(shape, train), shape.layers, train.ops.recompute
    costs = Costs(0.0, kept, kept, layers)
    if wanted == "full":
        costs = Costs(gradients, all_recomputed, all_recomputed, layers)
    elif wanted == "auto" and choose(costs, free, tokens, longest).recomputed:
        # Recomputed, a row's worst moment is near backward's end, when all gradients are there.
        costs = Costs(gradients, kept, all_recomputed, layers)
    return planned(costs, free, tokens, longest, wanted)


def _slopes(shape: Shape, train: TrainConfig) -> tuple[float, float]:
    """Bytes a token of a row with all layers kept, and with all recomputed, one of which is then kept at a time."""
    moment = _moment_bytes(shape, train)
    return layer_bytes(shape, train) + moment, layer_input_bytes(shape, train) + recomputed_layer_bytes(shape, train)


def layer_input_bytes(shape: Shape, train: TrainConfig) -> float:
    """Bytes a token of all layers' inputs, all that is kept where all are recomputed."""
    return float(WEIGHT_BYTES[train.precision] * shape.hidden * shape.layers)


def recomputed_layer_bytes(shape: Shape, train: TrainConfig) -> float:
    """Bytes a token of one layer that is recomputed and gone through backward."""
    return layer_bytes(shape, train) / shape.layers + _moment_bytes(shape, train)


def _moment_bytes(shape: Shape, train: TrainConfig) -> float:
    return TRANSIENT * WEIGHT_BYTES[train.precision] * hidden_width(shape)


def trained_parameters(shape: Shape, train: TrainConfig) -> int:
    """How many are trained: the adapter's, or all."""
    return total_parameters(shape) if train.lora is None else sum(lora_parameters(shape, train.lora).values())


def held_bytes(shape: Shape, train: TrainConfig, ranks: int) -> dict[str, float]:
    """What a LoRA run holds on each GPU whatever its rows are, by part."""
    trained = trained_parameters(shape, train)
    weights = float(WEIGHT_BYTES[train.precision] * total_parameters(shape))
    return {"weights": weights, "adapter": 4.0 * trained, **engine_bytes(trained, ranks)}


def logit_bytes(shape: Shape) -> float:
    """What the output head holds for a moment, beside a row's kept layers."""
    return float(CHUNK * shape.vocab * LOGIT_BYTES)
