"""The modality independent neighbourhood descriptors: definition, gradient, every backend."""

import itertools

import numpy as np
import pytest
import torch
from torch.func import grad, jvp, vmap

import fastreg
from fastreg.backends import cpu, reference
from fastreg.ops.mind import KINDS

SHAPES = [(1, 1), (9, 7), (1, 40), (70, 5), (1, 1, 1), (2, 1, 2), (6, 8, 5), (1, 6, 5), (5, 110, 37)]
SSC = {3: "+D+H +D-H +D+W +D-W -D+H -D-H -D+W -D-W +H+W +H-W -H+W -H-W", 2: "+H+W +H-W -H+W -H-W"}


@pytest.fixture(params=["native", "reference"])
def backend(request):
    return request.param


def image_of(*shape, dtype=torch.float64, flat=False):
    """Noise; `flat`: half of it is so weak that the floor holds."""
    image = torch.randn(*shape, dtype=torch.float64)
    if flat:
        image[..., : (shape[-1] + 1) // 2] *= 1e-3
    return image.to(dtype)


def steps_of(kind, ndim):
    """Pairs of offsets, in the order of the channels, from the words of the documentation."""
    axes = "DHW"[3 - ndim :]

    def offset(word):
        return tuple((1 if word[0] == "+" else -1) * (axis == word[1]) for axis in axes)

    if kind == "mind":
        return [((0,) * ndim, offset(sign + axis)) for axis in axes for sign in "+-"]
    return [(offset(word[:2]), offset(word[2:])) for word in SSC[ndim].split()]


def definition(values, kind, floor=None):
    """[D, H, W] -> [pairs, D, H, W] in NumPy's float64, and the floor of v that it took."""
    shape, ndim = values.shape, values.ndim

    def moved(array, offset):
        """What every voxel reads at `offset`, the border's values going on."""
        around = np.pad(array, 1, mode="edge")
        return around[tuple(slice(1 + step, 1 + step + n) for step, n in zip(offset, shape, strict=True))]

    patch = list(itertools.product((-1, 0, 1), repeat=ndim))
    squares = [(moved(values, a) - moved(values, b)) ** 2 for a, b in steps_of(kind, ndim)]
    distance = np.array([np.mean([moved(square, offset) for offset in patch], axis=0) for square in squares])
    v = distance.mean(0)
    floor = max(1e-3 * v.mean(), np.finfo(np.float64).tiny) if floor is None else floor
    return np.exp(-distance / np.maximum(v, floor)), floor


def test_one_voxel_by_hand():
    """The middle of a line of 5, and its left end, whose patch holds the first difference twice."""
    image = torch.tensor([[[[1.0, 4.0, 2.0, 7.0, 3.0]]]], dtype=torch.float64)
    found = fastreg.mind(image)[0, 2:, 0]  # along W; along H nothing changes
    ahead, behind = np.array([9, 4, 25, 16, 0.0]), np.array([0, 9, 4, 25, 16.0])
    for place, patch in ((2, [1, 2, 3]), (0, [0, 0, 1])):
        distances = np.array([ahead[patch].mean(), behind[patch].mean()])
        expected = np.exp(-distances / (distances.sum() / 4))
        np.testing.assert_allclose(found[:, place].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 4), (1, 6, 5), (2, 2, 2), (4, 1, 2)], ids=str)
def test_is_the_definition(shape, kind, backend):
    image = image_of(2, 2, *shape, flat=True)
    found = fastreg.mind(image, kind, backend)
    pairs = len(steps_of(kind, len(shape)))
    assert found.shape == (2, 2 * pairs, *shape)
    for b, c in itertools.product(range(2), range(2)):
        expected, _ = definition(image[b, c].numpy(), kind)
        np.testing.assert_allclose(found[b, c::2].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_does_not_care_for_contrast(kind, backend):
    image = image_of(1, 1, 12, 14, 10)
    torch.testing.assert_close(fastreg.mind(image, kind, backend), fastreg.mind(1000 - 7 * image, kind, backend))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [0, 2])
def test_native_is_the_reference(isa, batch, shape, kind, dtype):
    image = image_of(batch, 3, *shape, dtype=dtype, flat=True)
    out, floor = cpu.mind(image, kind)
    expected, least = reference.mind(image.double(), kind)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    assert out.dtype == floor.dtype == dtype and floor.shape == (batch, 3)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    if least.numel() and (least > 1e-30).all():
        torch.testing.assert_close(floor.double(), least, rtol=tolerance, atol=0)
    upstream = torch.randn_like(out)
    got = cpu.mind_backward(upstream, image, floor, kind)
    slope = reference.mind_backward(upstream.double(), image.double(), floor.double(), kind)
    # Where an image has so few voxels that all slopes are 0 but for rounding, as large as the parts that cancel.
    scale = max(slope.abs().max().item(), 1.0) if batch else 0
    torch.testing.assert_close(got.double(), slope, rtol=0, atol=20 * tolerance * scale)


def test_exponential_is_float32s():
    """Distances over v from 0 to 6, at random: two parts of an image, one of them flat along all axes but one."""
    image = image_of(1, 1, 24, 24, 24, dtype=torch.float32)
    image[..., 12:] = image[:, :, :, :1, 12:].expand(-1, -1, -1, 24, -1) * torch.tensor([1.0, 1e-2] * 6)
    got, expected = fastreg.mind(image, backend="native"), reference.mind(image.double(), "mind")[0]
    assert expected.min() < 0.05
    assert (got - expected).abs().max() < 4e-7


class FrozenFloor(torch.autograd.Function):
    """The definition with a given floor, and the op's gradient."""

    @staticmethod
    def forward(ctx, image, floor, kind, backend):
        ctx.save_for_backward(image, floor)
        ctx.options = kind, backend
        values = [[definition(c.numpy(), kind, f.item())[0] for c, f in zip(*b, strict=True)]
                  for b in zip(image.detach(), floor, strict=True)]  # fmt: skip
        return torch.from_numpy(np.array(values)).transpose(1, 2).flatten(1, 2)

    @staticmethod
    def backward(ctx, upstream):
        return torch.ops.fastreg.mind_backward(upstream, *ctx.saved_tensors, *ctx.options), None, None, None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("share", [0.0, 1.0, 100.0])
def test_gradcheck(shape, kind, share, backend):
    """Where the floor does not hold, where it holds somewhere, and where it holds everywhere."""
    image = image_of(1, 2, *shape).requires_grad_()
    v = torch.tensor([[definition(c.numpy(), kind)[1] * 1e3 for c in image[0].detach()]])
    floor = (v * share).clamp_min(1e-300)
    assert torch.autograd.gradcheck(lambda x: FrozenFloor.apply(x, floor, kind, backend), image)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flat", [False, True])
def test_gradients_agree(kind, flat, backend):
    """The op's, autograd through the definition in plain PyTorch, torch.func's and the forward mode's."""
    image = image_of(2, 2, 5, 6, 7, flat=flat)
    upstream = torch.randn_like(fastreg.mind(image, kind))
    x = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(fastreg.mind(x, kind, backend), x, upstream)
    (plain,) = torch.autograd.grad(reference.mind(x, kind)[0], x, upstream)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12 * plain.abs().max().item())
    torch.testing.assert_close(grad(lambda y: (fastreg.mind(y, kind, backend) * upstream).sum())(image), plain)
    direction = torch.randn_like(image)
    _, slope = jvp(lambda y: fastreg.mind(y, kind, backend), (image,), (direction,))
    torch.testing.assert_close((slope * upstream).sum(), (plain * direction).sum())
    stacked = vmap(lambda y: fastreg.mind(y[None], kind, backend)[0])(image)
    torch.testing.assert_close(stacked, fastreg.mind(image, kind))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_constant_images(isa, ndim, kind, dtype, backend):
    image = torch.full((1, 2, 4, 5, 19)[: 2 + ndim], 3e4, dtype=dtype).requires_grad_()
    found = fastreg.mind(image, kind, backend)
    assert torch.equal(found, torch.ones_like(found))
    (slope,) = torch.autograd.grad(found, image, 1e4 * torch.randn_like(found))
    assert slope.count_nonzero() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_takes_its_channel(isa, kind, backend):
    image = image_of(1, 2, 4, 5, 37, dtype=torch.float32)
    image[0, 1, 2, 3, 20] = float("nan")
    x = image.requires_grad_()
    found = fastreg.mind(x, kind, backend)
    assert found[:, 1::2].isnan().all() and found[:, ::2].isfinite().all()
    (slope,) = torch.autograd.grad(found, x, torch.ones_like(found))
    assert slope[:, 1].isnan().all() and slope[:, 0].isfinite().all()
    image = image.detach().clone()
    image[0, 1, 2, 3, 20] = float("inf")
    found, expected = fastreg.mind(image, kind, backend), reference.mind(image, kind)[0]
    assert torch.equal(found.isnan(), expected.isnan()) and expected.isnan().any() and (expected == 1).any()
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(90, 33), (29, 90, 33)], ids=str)
def test_bits_do_not_depend_on_threads(isa, threads, kind, shape):
    image, results = image_of(2, 1, *shape, dtype=torch.float32), []
    for count in (1, 2, 3, 8):
        threads(count)
        out, floor = cpu.mind(image, kind)
        results.append((out, floor, cpu.mind_backward(1 - out, image, floor, kind)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_rounded_once(dtype, kind, backend):
    image = image_of(1, 2, 6, 7, 9, dtype=dtype).requires_grad_()
    found = fastreg.mind(image, kind, backend)
    wide = image.detach().float().requires_grad_()
    expected = fastreg.mind(wide, kind, backend)
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    upstream = torch.randn_like(found)
    (slope,) = torch.autograd.grad(found, image, upstream)
    assert slope.dtype == dtype
    assert torch.equal(slope, torch.autograd.grad(expected, wide, upstream.float())[0].to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_strides_and_upstreams(kind):
    image = image_of(2, 3, 5, 6, 7, dtype=torch.float32)
    expected = fastreg.mind(image, kind)
    for other in (image.transpose(2, 4).contiguous().transpose(2, 4), image.to(memory_format=torch.channels_last_3d)):
        assert not other.is_contiguous()
        assert torch.equal(fastreg.mind(other, kind), expected)
    x = image.requires_grad_()
    fastreg.mind(x, kind).sum().backward()  # an upstream of stride 0
    summed, x.grad = x.grad, None
    fastreg.mind(x, kind).backward(torch.ones_like(expected))
    assert torch.equal(summed, x.grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 6, 7), (2, 2, 3, 4, 5)], ids=str)
def test_opcheck_meta_and_compile(shape, kind):
    image = torch.randn(shape).requires_grad_()
    torch.library.opcheck(torch.ops.fastreg.mind, (image, kind, "native"))
    out, floor = torch.ops.fastreg.mind(image.detach(), kind, "native")
    torch.library.opcheck(torch.ops.fastreg.mind_backward, (out, image.detach(), floor, kind, "native"))
    meta = fastreg.mind(torch.empty(shape, dtype=torch.half, device="meta"), kind)
    assert meta.shape == out.shape and meta.dtype == torch.half
    torch._dynamo.reset()

    def squared(x):
        return fastreg.mind(x * 2, kind).square()

    compiled = torch.compile(squared, fullgraph=True, dynamic=True, backend="aot_eager")
    for x in (image, image[..., :3]):
        one, other = (torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, squared))
        torch.testing.assert_close(compiled(x), squared(x))
        torch.testing.assert_close(one, other)


def test_no_second_derivative():
    image = torch.randn(1, 1, 4, 5).requires_grad_()
    (slope,) = torch.autograd.grad((fastreg.mind(image) ** 2).sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"fastreg.mind has no second derivative"):
        slope.sum().backward()


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"image must be float16, bfloat16, float32 or float64, got torch.int64"):
        fastreg.mind(torch.ones(1, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"image must be \[batch, channels, D, H, W\] or \[batch, channels, H, W\]"):
        fastreg.mind(torch.ones(4, 4, 4))
    with pytest.raises(ValueError, match="kind must be one of mind, ssc, got 'lncc'"):
        fastreg.mind(torch.ones(1, 1, 4, 4), "lncc")
