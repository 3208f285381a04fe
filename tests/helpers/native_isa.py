"""The instruction sets that the native kernels can use on this machine."""

from fastreg import _C

LEVELS = ("baseline", "neon") if _C.cpu.isa() == "neon" else ("baseline", "avx2", "avx512")
AVAILABLE = LEVELS[: LEVELS.index(_C.cpu.isa()) + 1]
