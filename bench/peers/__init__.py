"""What fastreg is measured against, called as its users call it. A peer that is not installed says so."""

from __future__ import annotations

from bench.implementations import Implementation, ours
from bench.peers.correlate import CORRELATES
from bench.peers.fields import INTEGRATIONS, PENALTIES
from bench.peers.lncc import LNCCS
from bench.peers.mind import MINDS
from bench.peers.on_gpu import ON_GPU
from bench.peers.warp import WARPS

PEERS = {"warp": WARPS, "lncc": LNCCS, "integrate": INTEGRATIONS, "smoothness": PENALTIES, "mind": MINDS}
PEERS["correlate"] = CORRELATES
"""Op -> who else does it."""


def find(op: str, name: str) -> Implementation:
    """An implementation by its name; "fastreg" is fastreg."""
    if name == "fastreg":
        return ours(op)
    return next(peer for peer in (*PEERS[op], *ON_GPU[op]) if peer.name == name)
