"""How long a step takes, by arithmetic: products at a share of the card's peak, everything else at its memory's speed.

The shares come from trainer/bench/README.md: EXPERTS from the profile there, ATTENTION from its rows of long items, and
DENSE, PASSES, READS, THIN and ADAPTER were fitted to its LoRA rows together, each of which is then within 5 %. All on
one H200, with flash-attn 4, quack, bf16, layers compiled, rows replayed; another card gets the same shares of its own
peaks. Nothing was fitted to the LoRA rows of `python3 -m tests.gpu.planned`: a step's planned seconds were 0.93 to
1.05 of those measured on one H100 of 80 GB (dense and mixture, rank 16 to 256, 0.14 to 1.2 s; 0.93 was adapters on a
plain MLP), 0.99 and 1.06 on two, 0.98 and 1.05 on four. More were never timed. Of every parameter see LAYER_ALONE.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.schema.config import TrainConfig
from trainer.schema.gpus import Gpu, Machine
from trainer.schema.packing import ROW_MULTIPLE, Rows
from trainer.schema.parameters import Shape, lora_parameters, rank_on_experts, total_parameters
from trainer.schema.row_bytes import THINNEST, layer_bytes, trained_parameters

DENSE, EXPERTS, ATTENTION = 0.713, 0.61, 0.68
"""Shares of the peak that products of whole matrices, those of a mixture's experts, and attention reach."""
PASSES = 14.7
"""How often what a row keeps for backward passes through memory, forward and backward together."""
READS = 2.9
"""Reads of all weights that a row costs beside its tokens: a mixture's products of few tokens fill no tile."""
THIN = 8.7
"""Passes of the experts' hidden rows through memory that adapters on them add."""
ADAPTER = 163
"""Bytes that move for each adapter value at each row: casts, other layouts, sums of gradients."""
STEP = 60
"""Bytes that move for each trained value at a step: sums cleared and clipped, AdamW in fp32."""
LOGIT = 24
"""Bytes that move for each logit."""
FORWARD = 0.35
"""A forward's part of what is no product."""
HOST = 0.002
"""Seconds between a step's last product and the next step's first."""

ROW_OF_ALL, LAYER_ALONE, LAYER_TOGETHER = 0.04, 0.024, 0.039
"""ZeRO-3's seconds for a row, and for each of its layers, whatever its size, on one GPU and on several: the host waits
for each of its parameters. Fitted to Qwen3 1.7B and 3 layers of Qwen3-30B-A3B on one H100, which are then within 5 %,
and to 4B, 5 and 1 layers on two, within 11. The host decides: hours later 1.7B took 1.25 times as long on another H100
machine and runs that nothing was fitted to were off by 0.81, 1.45, 0.95 (14 layers of 4B; 1.7B on two, on four)."""
FLASH_WIDEST = 128
"""Dimensions of a head that flash-attn 4 takes, forward and backward."""
OFFLOADED = 0.58e-9
"""Seconds of the host's step for each parameter of a node, on 32 cores: 2.3 s for 4.0 B, 2.2 s for 3.7 B."""


@dataclass(frozen=True)
class Work:
    """What one card does for a model and its adapters."""

    shape: Shape
    train: TrainConfig
    gpu: Gpu

    @cached_property
    def adapters(self) -> dict[str, int]:
        """Trained parameters by family, of LoRA."""
        return lora_parameters(self.shape, self.train.lora) if self.train.lora is not None else {}

    @cached_property
    def linear(self) -> int:
        """Weights of whole matrices that every token meets, embeddings and head left out."""
        shape = self.shape
        attention = 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim
        router = shape.hidden * (shape.experts + 3 * shape.shared_width)
        mlp = shape.mlp_layers * 3 * shape.hidden * shape.mlp_width
        return shape.layers * attention + shape.expert_layers * router + mlp

    @cached_property
    def one_of_each(self) -> int:
        """Weights of one expert in every layer that has experts."""
        return self.shape.expert_layers * 3 * self.shape.hidden * self.shape.expert_width

    def products(self, tokens: float) -> float:
        """Seconds of a forward's, adapters on plain layers included."""
        beside = sum(count for family, count in self.adapters.items() if family != "experts")
        chosen = self.shape.experts_per_token * self.one_of_each
        return 2 * tokens * ((self.linear + beside) / DENSE + chosen / EXPERTS) / self.gpu.flops

    def attention(self, squares: float) -> float:
        """Seconds of a forward's; `squares`: of the items' lengths, summed. Each token looks at half of its item."""
        shape = self.shape
        return 2 * squares * shape.heads * shape.head_dim * shape.layers / (ATTENTION * self.gpu.flops)

    def elementwise(self, tokens: float) -> float:
        """Seconds of all that is no product, forward and backward."""
        kept = PASSES * tokens * layer_bytes(self.shape, self.train)
        weights = 2 * READS * (self.linear + self.shape.experts * self.one_of_each)
        return (kept + weights) / self.gpu.bandwidth

    def on_experts(self, tokens: float) -> float:
        """Seconds that adapters on experts add: six whole products over all of them, and thin ones beside."""
        shape, lora = self.shape, self.train.lora
        if lora is None or "experts" not in self.adapters:
            return 0.0
        ranks = shape.experts * rank_on_experts(shape, lora)
        whole = 6 * 2 * tokens * shape.hidden * ranks * shape.expert_layers / (DENSE * self.gpu.flops)
        rows = 4 * tokens * shape.experts_per_token * shape.expert_width * shape.expert_layers
        return whole + THIN * rows / self.gpu.bandwidth

    def each_row(self) -> float:
        """Seconds of what the adapters cost at each row, however short. Experts' ranks are padded."""
        shape, lora = self.shape, self.train.lora
        padded = max(1.0, THINNEST / rank_on_experts(shape, lora)) if lora is not None else 1.0
        values = sum(count * (padded if family == "experts" else 1) for family, count in self.adapters.items())
        return ADAPTER * values / self.gpu.bandwidth

    def head(self, labels: float) -> float:
        """Seconds of the labels' logits: forward, once more, and backward."""
        shape = self.shape
        products = 6 * labels * shape.hidden * shape.vocab / (DENSE * self.gpu.flops)
        return products + LOGIT * labels * shape.vocab / self.gpu.bandwidth

    def row(self, lengths: Sequence[int], recomputed: int) -> float:
        """Seconds of a row of items of `lengths`, forward and backward, the head left out.

        Frozen weights have no gradient, so backward has as many products as forward; attention's has 2.5 times.
        """
        tokens = -(-sum(lengths) // ROW_MULTIPLE) * ROW_MULTIPLE
        products, attention = self.products(tokens), self.attention(sum(length * length for length in lengths))
        rest = self.elementwise(tokens) + self.on_experts(tokens)
        again = min(1.0, recomputed / self.shape.layers) * (products + attention + FORWARD * rest)
        return 2 * products + 3.5 * attention + rest + again + self.each_row()


def step_seconds(
    work: Work, machine: Machine, rows: Sequence[Rows], lengths: Sequence[int], labels: float, recomputed: int
) -> float:
    """Of one LoRA step: rows[rank] of items of `lengths` as packing made them; `labels` of all ranks together.

    The slowest rank's rows, then one reduction, then the optimiser.
    """
    slowest = max(sum(work.row([lengths[item] for item in row], recomputed) for row in own) for own in rows)
    trained = trained_parameters(work.shape, work.train)
    optimizer = STEP * trained / work.gpu.bandwidth + machine.exchange(8.0 * trained)
    return slowest + work.head(labels / machine.ranks) + optimizer + HOST


def full_seconds(work: Work, machine: Machine, rows: Iterable[Rows], tokens: float) -> float:
    """Of one step that trains every parameter under ZeRO-3, all layers recomputed: whatever is longest of the host's
    waiting, the products, and what the GPUs exchange."""
    count = max(len(own) for own in rows)
    each = ROW_OF_ALL + work.shape.layers * (LAYER_ALONE if machine.ranks == 1 else LAYER_TOGETHER)
    products = 4 * work.products(tokens / machine.ranks)
    parameters = total_parameters(work.shape)
    exchanged = count * machine.exchange(10.0 * parameters)  # weights twice in bf16, gradients in fp32 and their sum
    host = OFFLOADED * parameters / machine.nodes if work.train.ops.offload else 0.0
    return max(count * each, products, exchanged) + host
