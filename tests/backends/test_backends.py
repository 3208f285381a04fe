import pytest
import torch

import fastreg
from fastreg import backends


def test_status_says_who_runs():
    status = fastreg.backends.status()
    assert list(status) == list(backends.BACKENDS)
    assert status["native"] is None and status["reference"] is None
    assert all(why is None or isinstance(why, str) for why in status.values())


def test_the_fastest_that_fits_is_chosen():
    assert backends.choose(None, torch.zeros(1)) == "native"
    assert backends.choose(None, torch.zeros(1, device="meta")) == "reference"


def test_use_backend_nests_and_ends():
    with fastreg.use_backend("reference"):
        assert backends.choose(None) == "reference"
        with fastreg.use_backend("native"):
            assert backends.choose(None, torch.zeros(1)) == "native"
        assert backends.choose("native") == "native"  # the argument wins
        assert backends.choose(None) == "reference"
    assert backends.choose(None, torch.zeros(1)) == "native"


def test_use_backend_ends_after_an_error():
    with pytest.raises(RuntimeError), fastreg.use_backend("reference"):
        raise RuntimeError
    assert backends.choose(None, torch.zeros(1)) == "native"


def test_wrong_names_and_refusals():
    with pytest.raises(ValueError, match=r"backend must be one of .*native, reference, got 'nativ'"):
        backends.choose("nativ")
    with pytest.raises(ValueError, match="backend must be one of"), fastreg.use_backend("fast"):
        pass
    with pytest.raises(
        ValueError, match="backend 'native' cannot run this: it runs on the CPU, and a tensor is on meta"
    ):
        backends.choose("native", torch.zeros(1, device="meta"))


@pytest.mark.slow
def test_compiled_code_follows_use_backend():
    calls = []
    native = backends.BACKENDS["native"]
    original = native.warp_forward

    def counted(*args):
        calls.append(1)
        return original(*args)

    native.warp_forward = counted
    try:
        compiled = torch.compile(lambda v, f: fastreg.warp(v, f), fullgraph=True)
        vol, flow = torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4)
        compiled(vol, flow)
        assert len(calls) == 1
        with fastreg.use_backend("reference"):
            compiled(vol, flow)
        assert len(calls) == 1
    finally:
        native.warp_forward = original
