"""A stage of the optimisation: the best iterate is what it returns, and a plateau ends it."""

import math

import pytest
import torch
from helpers.textured import head

import fastreg
from fastreg.geometry import fields
from fastreg.nn.losses import LNCC, MSE
from fastreg.registration import optimise as module
from fastreg.registration.deformable import deform
from fastreg.registration.levels import Level
from fastreg.registration.optimise import optimise
from fastreg.registration.stages import Regularity, Stage

SIZES = [(24, 26, 22), (48, 40)]
ROUGH = Regularity(1.25, 0.04)


def image(size):
    return torch.from_numpy(head(size, radius=0.9))[None, None]


def level(size, shift=1):
    still = image(size)
    return Level(torch.roll(still, shift, 2), still, None, None, False)


def test_a_stage_returns_its_best_iterate():
    """A step far too large: the loss rises, and the start is what is kept."""
    still = torch.from_numpy(head((40, 44, 36)))[None, None]
    moved = torch.roll(still, 1, 2)
    seen = []
    given = {"stages": (Stage(1, 6, 7),), "tolerance": 0, "on_progress": seen.append}
    found = deform(moved, still, step=60.0, **given)
    assert torch.equal(found.flow, torch.zeros_like(found.flow))
    assert seen[0].loss == pytest.approx(-fastreg.lncc(still, moved, window=7).item(), abs=1e-5)
    careful = deform(moved, still, **given)
    assert seen[1].loss < seen[0].loss and careful.flow.abs().max() > 0.1


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("best", [0, 1, 2, 4])
def test_the_best_iterate_before_a_bad_step_is_found_again(monkeypatch, size, best):
    """The step that led away is undone, to rounding; the start is kept as the zeros it is."""
    losses, honest = [], module._Best.met

    def met(self, value):
        losses.append((value, self.adam.velocity.detach().clone()))
        honest(self, value if len(losses) <= best + 1 else 1e3 + len(losses))  # what follows is worse

    monkeypatch.setattr(module._Best, "met", met)
    velocity, value, iterations = optimise(level(size), 5, LNCC(7), ROUGH, 0.4, 0)
    assert iterations == 5 and len(losses) == 6
    assert value == losses[best][0]
    torch.testing.assert_close(velocity, losses[best][1], rtol=1e-5, atol=1e-6)
    assert best or torch.equal(velocity, torch.zeros_like(velocity))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_last_step_counts(size):
    """Its loss is looked at too: one iteration is not for nothing."""
    velocity, value, iterations = optimise(level(size), 1, LNCC(7), ROUGH, 0.1, 0)
    assert iterations == 1 and velocity.abs().max() > 0
    assert value < level(size).loss(torch.zeros_like(velocity), LNCC(7)).item()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_loss_is_that_of_the_velocity_with_its_penalties(size):
    """At zero of a level that knows a volume: the images' loss and the mean square of the known logarithm."""
    plain = level(size)
    known = torch.full_like(plain.fixed, 0.5)
    stretched = Level(plain.fixed, plain.moving, None, known, False)
    seen = [optimise(one, 1, LNCC(7), Regularity(1.0, 2.0), 1e-9, 0)[1] for one in (plain, stretched)]
    assert seen[1] - seen[0] == pytest.approx(2.0 * 0.25, rel=1e-3)


def test_a_plateau_ends_a_stage():
    assert not module._plateau([1.0] * 19, 1e-3)
    falling = [1.0 - 0.05 * k for k in range(20)]
    assert not module._plateau(falling, 1e-3)
    # Of the 0.95 that was gained the last ten iterations added 0.5: half of it is no plateau, all of it is.
    assert not module._plateau(falling, 0.5) and module._plateau(falling, 1.0)
    assert module._plateau([1.0, *[0.2] * 20], 1e-3)
    assert module._plateau([1.0, *[1.5] * 20], 1e-3), "what only rises ends"
    one, other = image((48, 40)), torch.from_numpy(head((48, 40), 5, 0.9))[None, None]
    seen = []
    for tolerance, most in ((0.05, 200), (0.0, 30)):
        _, value, iterations = optimise(Level(one, other, None, None, False), most, LNCC(9), ROUGH, 0.4, tolerance)
        seen.append(iterations)
        assert math.isfinite(value)
    assert 20 <= seen[0] < 200 and seen[1] == 30


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_to_do_and_no_iterations_are_the_identity(size):
    still = image(size)
    for done, iterations in ((True, 20), (False, 0)):
        one = Level(torch.roll(still, 1, 2), still, None, None, done)
        velocity, value, count = optimise(one, iterations, MSE(), ROUGH, 0.4, 0)
        assert torch.equal(velocity, torch.zeros(1, len(size), *size)) and count == 0
        assert value == pytest.approx(MSE()(still, one.fixed).item())
    assert fields.jacobian_determinant(velocity).eq(1).all()
