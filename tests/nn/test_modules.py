"""The ops as modules, and what a type checker sees of a call."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastreg
from fastreg.geometry import fields


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
def test_modules_are_their_ops(shape):
    vol, flow = torch.rand(2, 1, *shape), torch.randn(2, len(shape), *shape)
    warp = fastreg.nn.Warp(mode="nearest", padding="border", channels_last=True)
    expected = fastreg.warp(vol, flow, mode="nearest", padding="border")
    assert torch.equal(warp(vol, flow.movedim(1, -1)), expected)
    assert torch.equal(fastreg.nn.Warp()(vol, flow), fastreg.warp(vol, flow))
    integrate = fastreg.nn.Integrate(steps=3, padding="border")
    assert torch.equal(integrate(flow), fastreg.integrate(flow, steps=3, padding="border"))
    finer = tuple(2 * length + 1 for length in shape)
    assert torch.equal(fastreg.nn.Resize(finer)(flow), fields.resize(flow, finer))
    assert fastreg.nn.Resize(factor=0.5)(flow).shape[2:] == tuple(length // 2 for length in shape)
    assert fastreg.nn.Resize(factor=0.01)(flow).shape[2:] == (1,) * len(shape)


def test_in_a_sequence_with_gradients_copies_and_no_weights():
    ndim = 2
    net = nn.Sequential(
        nn.Conv2d(2, ndim, 3, padding=1), fastreg.nn.Integrate(steps=4), fastreg.nn.Resize(factor=2), nn.Identity()
    )
    images = torch.rand(1, 2, 8, 10)
    flow = copy.deepcopy(net)(images)
    assert flow.shape == (1, 2, 16, 20) and torch.equal(flow, net(images))
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    net(images).square().sum().backward()
    assert net[0].weight.grad.abs().max() > 0
    assert "Integrate(steps=4, padding='zeros')" in str(net) and "Resize(size=None, factor=2)" in str(net)
    assert str(fastreg.nn.Warp()) == "Warp(mode='linear', padding='zeros', channels_last=False)"


def test_hooks_run():
    seen = []
    warp = fastreg.nn.Warp()
    warp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    moved = warp(torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))
    assert seen == [moved]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: fastreg.nn.Warp(mode="cubic"),
            ValueError,
            "mode must be one of linear, nearest, bspline, got 'cubic'",
        ),
        (lambda: fastreg.nn.Warp(padding="wrap"), ValueError, "padding must be one of .*got 'wrap'"),
        (lambda: fastreg.nn.Integrate(steps=-1), ValueError, "steps must be at least 0, got -1"),
        (lambda: fastreg.nn.Integrate(steps=1.5), TypeError, "steps must be an integer, got float"),
        (lambda: fastreg.nn.Resize(), ValueError, "expected either size or factor, got size=None and factor=None"),
        (
            lambda: fastreg.nn.Resize((4, 4), 2.0),
            ValueError,
            r"either size or factor, got size=\(4, 4\) and factor=2.0",
        ),
        (lambda: fastreg.nn.Resize((4, 0)), ValueError, "size must be at least 1, got 0"),
        (lambda: fastreg.nn.Resize(factor=-1), ValueError, "factor must be positive and finite, got -1"),
    ],
)
def test_wrong_options_are_refused_when_a_config_is_built(make, error, message):
    with pytest.raises(error, match=message):
        make()


CODE = """
import fastreg
import torch

image, flow = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)
reveal_type(fastreg.nn.Warp()(image, flow))
reveal_type(fastreg.losses.LNCC()(image, image))
reveal_type(fastreg.RegistrationNet(ndim=2)(image, image).moved)
fastreg.nn.Integrate()(image, flow)
fastreg.losses.MSE()("image", image)
"""


@pytest.mark.slow
def test_a_type_checker_sees_calls(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    assert [line.split('"')[1] for line in said if "Revealed" in line] == ["torch._tensor.Tensor"] * 3, said
    assert [line.split(":")[1] for line in said if "error" in line and "user.py" in line] == ["9", "10"], said
