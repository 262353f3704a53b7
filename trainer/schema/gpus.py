"""The cards that plans know, and where ranks run."""

from collections.abc import Mapping
from dataclasses import dataclass

NVLINK, RDMA, ETHERNET = 200e9, 100e9, 10e9
"""Bytes a second that each GPU exchanges inside a node; that leave a node, with RDMA and without (100 Gbit/s). Taken,
not measured."""


@dataclass(frozen=True)
class Gpu:
    """A card: GiB as torch shows them; by its data sheet the dense bf16 peak and the memory's speed."""

    name: str
    memory_gib: float
    tflops: float
    terabytes_per_s: float
    measured: bool = False
    """Whether our runs were timed on it."""

    @property
    def flops(self) -> float:
        """Products' peak, operations a second."""
        return self.tflops * 1e12

    @property
    def bandwidth(self) -> float:
        """Memory's, bytes a second."""
        return self.terabytes_per_s * 1e12


GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 39.4, 312, 1.555),
        Gpu("l40s-48", 44.4, 362, 0.864),
        Gpu("a100-80", 79.1, 312, 2.039),
        Gpu("h100-80", 79.1, 989, 3.35, measured=True),
        Gpu("h200-141", 139.8, 989, 4.8, measured=True),
        Gpu("b200-180", 178.4, 2250, 8.0),
    )
}
"""Smallest memory first. SXM cards, where a card comes in several forms."""


@dataclass(frozen=True)
class Machine:
    """Where ranks run, one on each GPU."""

    gpu: Gpu
    nodes: int
    gpus_per_node: int
    rdma: bool = False

    @property
    def ranks(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus_per_node

    def exchange(self, amount: float) -> float:
        """Seconds that `amount` bytes of each GPU take to be summed over all, or gathered from them."""
        within = (self.gpus_per_node - 1) / self.gpus_per_node * amount / NVLINK
        across = (self.nodes - 1) / self.nodes * amount / (RDMA if self.rdma else ETHERNET)
        return within + across
