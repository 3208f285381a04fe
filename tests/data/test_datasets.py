import numpy as np
import pytest
import torch

from fastreg.data.cohorts import Subject, read_cohort
from fastreg.data.datasets import Pairs, Share, Volumes, loader
from fastreg.data.intensity import normalised
from fastreg.geometry.grid import spacing_of, working_grid
from fastreg.geometry.image import Image
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.utils.files import InputError


@pytest.fixture
def cohort(blobs):
    folder = blobs(4)
    return read_cohort(str(folder / "*_image.nii.gz"), str(folder / "*_labels.nii.gz"))


@pytest.fixture
def volumes(cohort, tmp_path):
    return Volumes(working_grid(load_image(cohort.subjects[0].image)), "percentile", tmp_path / "cache")


def test_working_grid_keeps_the_centre_and_the_directions():
    affine = np.array([[0, -1.5, 0, 10], [0, 0, 2, 20], [1, 0, 0, 30], [0, 0, 0, 1.0]])
    image = Image(np.zeros((20, 30, 40), np.float32), affine)
    grid = working_grid(image, spacing_mm=3.0)
    assert grid.shape == (7, 15, 27) and grid.orientation == "SLA" and grid.left_right == 1
    centre = affine @ [9.5, 14.5, 19.5, 1]
    np.testing.assert_allclose(grid.affine @ [3, 7, 13, 1], centre)
    cut = working_grid(image, 3.0, (16, 16, 16))
    assert cut.shape == (16, 16, 16)
    np.testing.assert_allclose(cut.affine @ [7.5, 7.5, 7.5, 1], centre)
    with pytest.raises(InputError, match="expected 3 numbers"):
        working_grid(image, shape=(16, 16))


def test_spacing_of_an_image_for_a_number_of_voxels():
    image = Image(np.zeros((20, 30, 40), np.float32), np.diag([1.0, 2.0, 4.0, 1.0]))  # voxels of 8 mm3
    assert spacing_of(image, None, None) is None and spacing_of(image, 3.0, None) == 3.0
    assert spacing_of(image, None, 24_000 // 8) == pytest.approx(4.0)
    assert spacing_of(image, None, 10**9) == pytest.approx(2.0)  # not finer than the image
    grid = working_grid(image, spacing_of(image, None, 3000))
    assert np.prod(grid.shape) == pytest.approx(3000, rel=0.15) and grid.shape == (5, 15, 40)
    plane = Image(np.zeros((30, 20), np.float32), np.eye(4))
    assert spacing_of(plane, None, 150) == pytest.approx(2.0)


def test_normalised():
    data = np.random.default_rng(0).normal(-500, 300, (20, 20, 20))
    data[0, 0, 0] = np.nan
    scaled = normalised(data, "percentile")
    assert scaled.dtype == np.float32 and scaled.min() == 0 and scaled.max() == 1 and np.isfinite(scaled).all()
    assert (normalised(np.full((4, 4), 7.0), "percentile") == 0).all()
    mostly_empty = np.zeros((30, 30, 30))
    mostly_empty[3, 3, 3] = 5
    assert normalised(mostly_empty, "percentile")[3, 3, 3] == 1
    np.testing.assert_array_equal(normalised(data, "none"), data.astype(np.float32))
    with pytest.raises(InputError, match="no finite voxel"):
        normalised(np.full((2, 2), np.nan), "percentile")


def test_volumes_on_their_own_grid_are_exact(cohort, volumes):
    subject = cohort.subjects[1]
    assert torch.equal(
        volumes.image(subject)[0], torch.from_numpy(normalised(load_image(subject.image).data, "percentile"))
    )
    assert torch.equal(volumes.labels(subject)[0], torch.from_numpy(load_labels(subject.label).data.astype(np.int32)))


def test_volumes_of_other_grids_are_brought_onto_it_through_the_world(cohort, volumes, tmp_path):
    image = load_image(cohort.subjects[0].image)
    flipped = Image(
        image.data[::-1, :, 2:].copy(),
        image.affine @ np.array([[-1, 0, 0, image.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1.0]]),
    )
    save_image(tmp_path / "flipped.nii.gz", flipped)
    one = volumes.image(Subject("x", tmp_path / "flipped.nii.gz"))
    other = volumes.image(cohort.subjects[0])
    assert (one - other)[..., 2:].abs().max() < 0.02


def test_cache_is_read_again_and_notices_changes(cohort, volumes):
    volumes.prepare(cohort.subjects, threads=2)
    files = set(volumes.folder.iterdir())
    assert len(files) == 8
    before = volumes.image(cohort.subjects[0])
    assert set(volumes.folder.iterdir()) == files
    save_image(
        cohort.subjects[0].image, np.random.default_rng(1).random(before.shape[1:]).astype(np.float32), np.eye(4)
    )
    assert not torch.equal(volumes.image(cohort.subjects[0]), before)


def test_pairs_are_a_function_of_seed_and_index(cohort, volumes):
    pairs = Pairs(volumes, cohort.subjects, seed=5, flip=True)
    again = Pairs(volumes, cohort.subjects, seed=5, flip=True)
    other = Pairs(volumes, cohort.subjects, seed=6)
    names = [pairs.names(k) for k in range(60)]
    assert names == [again.names(k) for k in range(60)] != [other.names(k) for k in range(60)]
    assert all(m != f for m, f in names)
    assert len(set(names)) == 12  # every ordered pair of four comes up
    assert torch.equal(pairs[7]["moving"], again[7]["moving"])


def test_flip_mirrors_both_images_left_to_right(cohort, volumes):
    plain, flipped = Pairs(volumes, cohort.subjects, seed=1), Pairs(volumes, cohort.subjects, seed=1, flip=True)
    mirrored = 0
    for k in range(12):
        a, b = plain[k], flipped[k]
        if torch.equal(a["moving"], b["moving"]):
            assert torch.equal(a["fixed"], b["fixed"])
        else:
            mirrored += 1
            assert torch.equal(a["moving"].flip(1), b["moving"]) and torch.equal(a["fixed"].flip(1), b["fixed"])
    assert 0 < mirrored < 12


def test_atlas_is_always_fixed_and_everyone_comes_once_a_lap(cohort, volumes):
    atlas, *people = cohort.subjects
    pairs = Pairs(volumes, tuple(people), atlas=atlas)
    names = [pairs.names(k) for k in range(6)]
    assert all(f == atlas for _, f in names)
    assert {m.id for m, _ in names[:3]} == {m.id for m, _ in names[3:]} == {s.id for s in people}


def test_processes_share_the_items():
    """Two processes with batches of one see what one process with batches of two sees."""
    alone = [batch for batch in Share(3, 6, 2)]
    shares = [list(Share(3, 6, 1, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone == [[6, 7], [8, 9], [10, 11]]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_batches_in_order(cohort, volumes, workers):
    pairs = Pairs(volumes, cohort.subjects)
    batches = list(loader(pairs, Share(1, 3, 2), workers, pin=False))
    assert len(batches) == 2 and batches[0]["moving"].shape == (2, 1, 24, 20, 28)
    assert torch.equal(batches[1]["fixed"][0], pairs[4]["fixed"])


def test_too_few_subjects(cohort, volumes):
    with pytest.raises(InputError, match="training needs two images, the cohort has 1"):
        Pairs(volumes, cohort.subjects[:1])
