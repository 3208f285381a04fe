import json

import pytest
import torch
from safetensors.torch import save_file

from fastreg.nn import checkpoint
from fastreg.nn.checkpoint import Checkpoint, WorkingSpace
from fastreg.nn.registration_net import RegistrationNet
from fastreg.utils.files import InputError


@pytest.fixture
def saved(tmp_path):
    net = RegistrationNet("vm1", ndim=2, width=0.5)
    about = Checkpoint(
        network=net.options,
        working=WorkingSpace(spacing_mm=2.0, shape=(4, 5), passes=(2, 1)),
        step=7,
        config={"lr": 1e-4},
        figures={"dice": 0.5},
    )
    optimizer = torch.optim.Adam(net.parameters())
    moving, fixed = torch.rand(2, 1, 1, 16, 16)
    net.field(moving, fixed).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "net.safetensors", net, about, optimizer)
    return tmp_path / "net.safetensors", net, about, optimizer


def test_what_is_saved_comes_back(saved):
    path, net, about, optimizer = saved
    rng = torch.get_rng_state()
    loaded, found = checkpoint.load(path)
    assert found == about and loaded.options == net.options
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), loaded.state_dict().values(), strict=True))
    other = RegistrationNet(**net.options)
    resumed = torch.optim.Adam(other.parameters())
    assert checkpoint.resume(path, other, resumed).step == 7
    assert torch.equal(torch.get_rng_state(), rng)
    state, again = optimizer.state_dict(), resumed.state_dict()
    assert json.dumps(state["param_groups"]) == json.dumps(again["param_groups"])
    for index, slots in state["state"].items():
        assert all(torch.equal(value, again["state"][index][name]) for name, value in slots.items())


def test_wrong_files(saved, tmp_path):
    path, net, about, optimizer = saved
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(tmp_path / "nothing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="expected a safetensors file"):
        checkpoint.load(cut)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not written by fastreg"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="do not fit the network vm2"):
        checkpoint.load_weights(path, RegistrationNet("vm2", ndim=2))
    checkpoint.save(tmp_path / "weights.safetensors", net, about)
    with pytest.raises(InputError, match="holds weights alone"):
        checkpoint.resume(tmp_path / "weights.safetensors", net, optimizer)


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    path, net, about, _ = saved
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, net, about)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
