"""The memory that a training step takes, network by network, counted tensor by tensor without computing them.

python -m bench activations                       # 160x192x224, bfloat16

The step runs on fake tensors, which have shapes and no values: what is alive is counted after every operation, as on a
GPU whose allocator wastes nothing. Workspaces of convolutions are not in it.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastreg
from fastreg.nn.losses import LNCC, Smoothness
from fastreg.nn.registration_net import NETWORKS

_DispatchMode: Any = TorchDispatchMode  # untyped


class Alive(_DispatchMode):  # type: ignore[misc]
    """Counts the bytes of the tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what is new."""
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        self.most = max(self.most, self.now)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def step(name: str, size: tuple[int, ...], **options: Any) -> tuple[int, int]:
    """Bytes alive after the forward pass and, at most, at any time of a step; weights and images left out."""
    with FakeTensorMode():
        net = fastreg.RegistrationNet(name, len(size), **options)
        moving, fixed = (torch.rand(1, 1, *size) for _ in range(2))
        with Alive() as alive:
            found = net(moving, fixed)
            loss = LNCC(9)(found.moved, fixed) + Smoothness()(found.flow)
            kept = alive.now
            torch.autograd.backward(loss)
        return kept, alive.most


def main(words: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench activations", description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=(160, 192, 224))
    options = parser.parse_args(words)
    size = tuple(options.size)
    print("| network | float32: kept, most | --amp | --amp --save-memory |\n| --- | --- | --- | --- |")
    for name in NETWORKS:
        cells = []
        for given in ({}, {"amp": True}, {"amp": True, "save_memory": True}):
            kept, most = step(name, size, **given)
            cells.append(f"{kept / 2**30:.2f}, {most / 2**30:.2f} GiB")
        print(f"| {name} | {' | '.join(cells)} |")
    return 0
