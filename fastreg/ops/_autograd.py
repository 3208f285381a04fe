"""Where PyTorch's transforms cannot see into a custom op."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad


def needs_reference(*tensors: torch.Tensor | None) -> bool:
    """Whether a transform is at work that custom ops do not follow: torch.func (grad, vmap, jvp ...) or forward mode.

    Those get the reference implementation, which is plain PyTorch and differentiable in every way.
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(tensor is not None and _has_tangent(tensor) for tensor in tensors)


def _has_tangent(tensor: torch.Tensor) -> bool:
    unpack_dual: Any = forward_ad.unpack_dual
    return unpack_dual(tensor).tangent is not None


def wants_grad(tensor: torch.Tensor) -> bool:
    """Whether somebody will ask for the gradient to `tensor`."""
    return torch.is_grad_enabled() and tensor.requires_grad


def no_double_backward(name: str) -> Any:
    """A backward formula that says that there is none."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"fastreg.{name} has no second derivative; for double backward use torch.func.grad, "
            f"which runs the reference implementation"
        )

    return backward


def value_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Of a scalar computed from `tensor`."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def register_kept_gradient(op: Any, name: str) -> None:
    """The backward of an op whose results are a scalar and the gradient of it to the op's first argument."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.others = (None,) * (len(inputs) - 1)
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad: torch.Tensor | None, again: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if again is not None:
            no_double_backward(name)(ctx)
        (kept,) = ctx.saved_tensors
        return None if grad is None else times(kept, grad), *ctx.others

    op.register_autograd(backward, setup_context=setup)


def times(kept: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """A gradient kept from the forward times the scalar from above.

    In the kept tensor's own memory where this backward is the last to see it: fresh pages cost more than the product.
    Half precision is multiplied in the scalar's precision and rounded once.
    """
    if kept.dtype in (torch.float16, torch.bfloat16):
        return (kept.to(grad.dtype) * grad).to(kept.dtype)
    if not _last_backward(grad):
        return kept * grad.to(kept.dtype)
    kept = kept.detach()
    if grad.device.type == "cpu" and float(grad) == 1:  # asking a GPU would wait for it
        return kept
    return kept.mul_(grad)


def _last_backward(grad: torch.Tensor) -> bool:
    """Whether the graph is thrown away behind this backward, and nothing traces or transforms it."""
    batched = torch._C._functorch.is_batchedtensor(grad) or torch._C._functorch.is_legacy_batchedtensor(grad)
    if type(grad) is not torch.Tensor or batched:
        return False
    keeps_graph: bool = torch._C._autograd._get_current_graph_task_keep_graph()
    return not keeps_graph
