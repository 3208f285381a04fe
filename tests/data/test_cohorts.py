import json

import pytest

from fastreg.data.cohorts import read_cohort
from fastreg.data.pairs import read_subject_pairs
from fastreg.utils.files import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}_t1.nii.gz").touch()
        (tmp_path / f"{name}_seg.nii.gz").touch()
    return tmp_path


def test_globs_pair_by_what_the_star_stands_for(folder):
    cohort = read_cohort(str(folder / "*_t1.nii.gz"), labels=str(folder / "*_seg.nii.gz"))
    assert [s.id for s in cohort.subjects] == ["a", "b", "c"]
    assert [s.label.name for s in cohort.subjects] == ["a_seg.nii.gz", "b_seg.nii.gz", "c_seg.nii.gz"]


def test_folder_takes_every_image(folder):
    assert len(read_cohort(str(folder)).subjects) == 6


def test_list_file_with_prefix_suffix_and_comments(folder):
    (folder / "list.txt").write_text("# people\na\n\nb # the second\n")
    cohort = read_cohort(str(folder / "list.txt"), prefix=f"{folder}/", suffix="_t1.nii.gz")
    assert [s.image for s in cohort.subjects] == [folder / "a_t1.nii.gz", folder / "b_t1.nii.gz"]


def test_list_file_relative_to_itself_with_labels(folder):
    (folder / "list.txt").write_text("a_t1.nii.gz a_seg.nii.gz\nb_t1.nii.gz b_seg.nii.gz\n")
    assert read_cohort(str(folder / "list.txt")).subjects[1].label == folder / "b_seg.nii.gz"


def test_csv_of_subjects_and_of_pairs(folder):
    (folder / "people.csv").write_text("id,image,label\nanna,a_t1.nii.gz,a_seg.nii.gz\nben,b_t1.nii.gz,\n")
    people = read_cohort(str(folder / "people.csv")).subjects
    assert [(s.id, s.label is None) for s in people] == [("anna", False), ("ben", True)]
    (folder / "pairs.csv").write_text("moving,fixed\na_t1.nii.gz,b_t1.nii.gz\nb_t1.nii.gz,c_t1.nii.gz\n")
    cohort = read_cohort(str(folder / "pairs.csv"))
    assert [(m.id, f.id) for m, f in cohort.pairs] == [("a_t1", "b_t1"), ("b_t1", "c_t1")]
    assert len(cohort.subjects) == 3


def test_learn2reg_dataset(folder):
    content = {"training": [{"image": "./a_t1.nii.gz", "label": "./a_seg.nii.gz"}, {"image": "./b_t1.nii.gz"}]}
    (folder / "OASIS_dataset.json").write_text(json.dumps(content))
    people = read_cohort(str(folder / "OASIS_dataset.json")).subjects
    assert people[0].label is not None and people[1].label is None


def test_split_by_ids(folder):
    training, chosen = read_cohort(str(folder / "*_t1.nii.gz")).split({"b"})
    assert [s.id for s in training.subjects] == ["a", "c"] and [s.id for s in chosen.subjects] == ["b"]


@pytest.mark.parametrize("name", ["pairs.txt", "pairs.csv"])
def test_pair_list_by_id(folder, name):
    cohort = read_cohort(str(folder / "*_t1.nii.gz"))
    (folder / name).write_text("moving,fixed\na,b\nc,a\n" if name.endswith("csv") else "a b\nc a\n")
    assert [(m.id, f.id) for m, f in read_subject_pairs(folder / name, cohort)] == [("a", "b"), ("c", "a")]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("a_t1.nii.gz b c\n", "x.txt", "line 1: expected image or image label, got"),
        ("nobody.nii.gz\n", "x.txt", "nobody.nii.gz .* no such file"),
        ("", "x.txt", "no images in it"),
        ("picture\n1\n", "x.csv", "expected a header with image"),
        ("{", "x.json", "not JSON"),
        ('{"training": []}', "x.json", "expected a Learn2Reg dataset"),
        ('{"training": [{"img": "a"}]}', "x.json", "has no 'image'"),
        ("a_t1.nii.gz\na_t1.nii.gz\n", "x.txt", "two subjects have the id 'a_t1'"),
    ],
)
def test_wrong_files(folder, content, name, message):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_cohort(str(folder / name))


def test_wrong_sources(folder):
    with pytest.raises(InputError, match="no such file, folder or match"):
        read_cohort(str(folder / "nothing"))
    with pytest.raises(InputError, match="no image there"):
        read_cohort(str(folder / "*.dcm"))
    (folder / "c_seg.nii.gz").unlink()
    with pytest.raises(InputError, match="none for image c"):
        read_cohort(str(folder / "*_t1.nii.gz"), labels=str(folder / "*_seg.nii.gz"))
    cohort = read_cohort(str(folder / "*_t1.nii.gz"))
    (folder / "p.txt").write_text("a nobody\n")
    with pytest.raises(InputError, match="line 1: 'nobody' is neither an id nor an image"):
        read_subject_pairs(folder / "p.txt", cohort)
