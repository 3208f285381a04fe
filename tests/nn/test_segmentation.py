import json

import pytest
import torch
import torch.nn.functional as F

from fastreg.geometry import fields
from fastreg.io.labels import read_structures, structure_codes
from fastreg.nn.label_dice import LabelDice
from fastreg.nn.losses import Dice
from fastreg.ops.warp import warp
from fastreg.utils.files import InputError


def maps(shape, labels, batch=2):
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, labels + 1, (batch, 1, *shape), generator=rng, dtype=torch.int32) for _ in range(2)]


def rough(shape, batch=2, sd=1.5):
    rng = torch.Generator().manual_seed(2)
    return sd * torch.randn(batch, len(shape), *shape, generator=rng, dtype=torch.float64)


def naive(moving, fixed, flow, labels):
    """The definition: one-hot channels, warped, soft Dice."""
    channels = [F.one_hot(m[:, 0].long(), labels + 1).movedim(-1, 1)[:, 1:].to(flow.dtype) for m in (moving, fixed)]
    return Dice()(warp(channels[0], flow, backend="reference"), channels[1])


@pytest.mark.parametrize("shape", [(6, 7, 5), (9, 8), (1, 6, 4)], ids=str)
@pytest.mark.parametrize("labels", [1, 5, 40])
def test_equals_one_hot_channels(shape, labels):
    moving, fixed = maps(shape, labels)
    flow = rough(shape).requires_grad_()
    loss, wanted = LabelDice()(moving, fixed, flow), naive(moving, fixed, flow, labels)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    (grad,), (wanted_grad,) = torch.autograd.grad(3 * loss, flow), torch.autograd.grad(3 * wanted, flow)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-9, atol=1e-14)


def test_integer_displacements_have_the_right_hand_slope():
    moving, fixed = maps((5, 6, 4), 3)
    flow = rough((5, 6, 4)).round().requires_grad_()
    grads = [torch.autograd.grad(f(moving, fixed, flow), flow)[0] for f in (LabelDice(), lambda *a: naive(*a, 3))]
    torch.testing.assert_close(*grads)


def test_float32_agrees_with_float64():
    moving, fixed = maps((12, 10, 8), 12)
    flow = rough((12, 10, 8))
    exact, single = (LabelDice()(moving, fixed, flow.to(dtype)).double() for dtype in (torch.float64, torch.float32))
    assert single.item() == pytest.approx(exact.item(), rel=1e-6)


def test_what_is_empty_in_both_does_not_count():
    moving, fixed = torch.zeros(2, 1, 4, 4, dtype=torch.int32)
    moving[0, 1:3, 1:3] = fixed[0, 1:3, 1:3] = 7
    assert LabelDice()(moving[None], fixed[None], torch.zeros(1, 2, 4, 4)).item() == -1
    flow = torch.zeros(1, 2, 4, 4, requires_grad=True)
    nothing = LabelDice()(0 * moving[None], 0 * fixed[None], flow)
    nothing.backward()
    assert nothing.item() == 0 and not flow.grad.any()


def test_pulls_a_structure_into_place():
    moving, fixed = torch.zeros(2, 1, 20, 20, dtype=torch.int32)
    moving[..., 5:12, 5:12] = 1
    fixed[..., 7:14, 6:13] = 1
    flow = torch.zeros(1, 2, 20, 20, requires_grad=True)
    optimiser = torch.optim.Adam([flow], lr=0.1)
    for _ in range(80):
        optimiser.zero_grad()
        loss = LabelDice()(moving[None], fixed[None], flow) + 0.02 * fields.smoothness(flow)
        loss.backward()
        optimiser.step()
    assert LabelDice()(moving[None], fixed[None], flow).item() < -0.95


def largest_tensor(moving, fixed, flow):
    """Elements of the largest tensor that an op makes, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen[0] = max(
                [seen[0], *(o.numel() for o in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(o))]
            )
            return out

    with Watch():
        torch.autograd.grad(LabelDice()(moving, fixed, flow), flow)
    return seen[0]


def test_memory_does_not_grow_with_the_labels():
    flow = rough((16, 16, 16), 1).requires_grad_()
    few, many = (largest_tensor(*maps((16, 16, 16), labels, 1), flow) for labels in (2, 500))
    assert few == many == flow.numel()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": torch.zeros(1, 1, 4, 4)}, "moving must hold integers, got torch.float32"),
        ({"fixed": torch.zeros(1, 1, 4, 5, dtype=torch.int32)}, "fixed must lie on the grid of flow"),
        ({"moving": torch.zeros(2, 1, 4, 4, dtype=torch.int32)}, r"moving must be \[1, 1, ...\] with 2 axes"),
    ],
)
def test_wrong_arguments(change, message):
    labels = torch.zeros(1, 1, 4, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        LabelDice()(**{"moving": labels, "fixed": labels, "flow": torch.zeros(1, 2, 4, 4), **change})


def test_structures_from_text_and_json(tmp_path):
    def read(content):
        path = tmp_path / "labels.json"
        path.write_text(json.dumps(content))
        return list(read_structures(str(path)).values())

    assert read_structures("all") is None
    assert read_structures("3, 42") == {"3": (3,), "42": (42,)}
    assert read([3, [4, 43]]) == [(3,), (4, 43)]
    assert read({"3": "cortex", "42": "cortex"}) == [(3,), (42,)]
    assert read({"cortex": 3, "ventricle": 4}) == [(3,), (4,)]
    assert read({"cortex": [3, 42], "ventricle": [4, 43]}) == [(3, 42), (4, 43)]
    assert read_structures(str(tmp_path / "labels.json")) == {"cortex": (3, 42), "ventricle": (4, 43)}
    for bad in ([], [0], ["x"], [[]], {"a": [3], "b": [3]}, 5, [True]):
        with pytest.raises(InputError, match="labels"):
            read(bad)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        read_structures(str(tmp_path / "broken.json"))


def test_codes():
    labels = torch.tensor([[0, 3, 42, 4, 99, -1]], dtype=torch.int32)
    assert structure_codes(labels, ((4, 43), (3, 42))).tolist() == [[0, 2, 2, 1, 0, 0]]
