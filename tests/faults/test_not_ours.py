"""What fastreg did not write is not touched: files, links, modes; no output over an input or another output."""

import json
import os
import stat
from hashlib import sha256

import pytest

from fastreg.utils.files import InputError, atomic, check_apart

PAIRS = ("--levels", "1x2", "--no-affine", "--device", "cpu")


def snapshot(folder):
    """Every file with its bytes, every link with what it says."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def refused(fastreg, folder, *words, said=""):
    """One line, exit code 1, and everything in the folder as it was."""
    before = snapshot(folder)
    ended = fastreg(*words)
    assert ended.code == 1 and ended.err.count("\n") == 1 and said in ended.line, ended
    assert snapshot(folder) == before
    return ended.line


def test_files_of_the_user_in_a_pair_s_folder(fastreg, scans, tmp_path):
    words = ("register", "--pairs", scans / "pairs.csv", *PAIRS, "-o", tmp_path / "out")
    mine = tmp_path / "out" / "p2"
    mine.mkdir(parents=True)
    for name in ("points.csv", "affine.mat", "moved_labels.nii.gz", "notes.txt"):  # none of this run's outputs
        (mine / name).write_text("precious")
    (mine / "warp.nii.gz").write_text("precious")
    refused(fastreg, tmp_path, *words, said="p2/warp.nii.gz exists; use --overwrite")
    (mine / "warp.nii.gz").unlink()
    assert fastreg(*words).code == 0
    assert (mine / "points.csv").read_text() == (mine / "notes.txt").read_text() == "precious"
    for name, hashed in json.loads((mine / "pair.json").read_text())["written"].items():
        assert sha256((mine / name).read_bytes()).hexdigest() == hashed
    # With --overwrite and other outputs only what fastreg wrote goes, and not what was changed since.
    (mine / "moved.nii.gz").write_text("changed")
    assert fastreg(*words, "--save", "warp", "--overwrite").code == 0
    assert {path.name for path in (tmp_path / "out" / "p1").iterdir()} == {"warp.nii.gz", "pair.json"}
    assert (mine / "moved.nii.gz").read_text() == "changed" and (mine / "affine.mat").read_text() == "precious"


def test_a_foreign_table_and_links_in_the_folder_of_pairs(fastreg, scans, tmp_path):
    words = ("register", "--pairs", scans / "pairs.csv", *PAIRS, "-o", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("name,score\nme,1\n")
    refused(fastreg, tmp_path, *words, said="results.csv exists and is no table of fastreg register")
    (tmp_path / "out" / "results.csv").unlink()
    (tmp_path / "out" / "p3").symlink_to(scans)
    refused(fastreg, tmp_path, *words, said="p3 is a link to")
    (tmp_path / "out" / "p3").unlink()
    (tmp_path / "out" / "p1").symlink_to("p2")
    refused(fastreg, tmp_path, *words, said="'p1' and 'p2' would be one folder")


def test_outputs_of_pairs_over_an_input_of_theirs(fastreg, scans, tmp_path):
    (tmp_path / "out" / "b").mkdir(parents=True)
    moving = tmp_path / "out" / "b" / "moved.nii.gz"
    moving.write_bytes((scans / "s1_t1.nii.gz").read_bytes())
    listed = tmp_path / "list.csv"
    listed.write_text(f"name,moving,fixed\na,{moving},{scans}/s0_t1.nii.gz\nb,{scans}/s2_t1.nii.gz,{moving}\n")
    for extra in ((), ("--overwrite",)):
        words = ("register", "--pairs", listed, *PAIRS, "-o", tmp_path / "out", *extra)
        refused(fastreg, tmp_path, *words, said="output b/moved.nii.gz is the input moving")
    listed.write_text("name,moving,fixed\nA,x.nii,y.nii\na,x.nii,y.nii\n")
    refused(fastreg, tmp_path, *words, said="'A' and 'a' would be one folder")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "validation.csv", "model.safetensors", "curve.png"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_training_beside_files_of_the_user(name, kind, training, tmp_path, capsys):
    from fastreg.cli import main

    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "mine").write_text("{}")
    if kind == "file":
        (folder / name).write_text("{}")
    else:
        (folder / name).symlink_to(tmp_path / ("mine" if kind == "link" else "nothing"))
    before = snapshot(tmp_path)
    for extra in ((), ("--resume",)):
        with pytest.raises(SystemExit) as end:
            main([*training, "--steps", "1", "-o", str(folder), *extra])
        assert end.value.code == 1 and f"{name} is there and " in capsys.readouterr().err
        assert snapshot(tmp_path) == before
    if kind != "file" and name in ("config.json", "metrics.csv"):  # the link goes, what it leads to stays
        with pytest.raises(SystemExit) as end:
            main([*training, "--steps", "1", "--val-every", "0", "-o", str(folder), "--overwrite"])
        assert end.value.code == 0 and not (folder / name).is_symlink()
        assert (tmp_path / "mine").read_text() == "{}" and not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_outputs_over_what_a_command_reads_besides(fastreg, training, scans, tmp_path):
    words = [*training, "--steps", "1", "--val-every", "0", "-o", tmp_path / "run"]
    assert fastreg(*words).code == 0
    model = tmp_path / "run" / "model.safetensors"
    refused(fastreg, tmp_path, *words, "--load-model", model, "--overwrite", said="model.safetensors is the input that")
    start = tmp_path / "out" / "p1" / "affine.mat"
    pairs = ["register", "--pairs", scans / "pairs.csv", "--transform", "translation", "-o", tmp_path / "out"]
    assert fastreg(*pairs, "--save", "affine").code == 0
    again = [*pairs, "--init", start, "--save", "affine", "--overwrite"]
    refused(fastreg, tmp_path, *again, said="output p1/affine.mat is the input --init")
    pair = ["register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz"]
    refused(fastreg, tmp_path, *pair, "--init", start, "--affine-out", start, said="--affine-out is the input --init")


def test_what_a_sweep_and_a_demo_find(fastreg, training, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.png").write_text("precious")
    training[training.index("s3")] = "s2,s3"
    words = ["sweep", *training[1:], "--lambdas", "1", "--steps", "1", "-o", tmp_path / "sweep"]
    refused(fastreg, tmp_path, *words, said="sweep.png exists")
    refused(fastreg, tmp_path, "demo", "-o", tmp_path / "sweep", said="expected a new or an empty folder")


@pytest.mark.parametrize("extra", [(), ("--overwrite",)])
def test_one_path_for_two(extra, scans, tmp_path, monkeypatch, capsys):
    from fastreg.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "again").symlink_to("folder")
    (tmp_path / "image.nii.gz").symlink_to(scans / "s0_t1.nii.gz")
    f, m = scans / "s0_t1.nii.gz", scans / "s1_t1.nii.gz"
    pair = ("register", "-f", f, "-m", m)
    before = snapshot(tmp_path)
    for words, said in (
        ((*pair, "-o", "x.nii.gz", "--warp", "./x.nii.gz"), "two outputs have the same path: --moved and --warp"),
        ((*pair, "-o", "folder/x.nii.gz", "--warp", "again/x.nii.gz"), "two outputs have the same path"),
        (
            (*pair, "-o", "x.nii.gz", "--warp", tmp_path / "folder" / ".." / "x.nii.gz"),
            "two outputs have the same path",
        ),
        ((*pair, "-o", m), "output --moved is the input --moving"),
        ((*pair, "-o", "image.nii.gz"), "output --moved is the input --fixed"),
        ((*pair, "-o", "x.nii.gz", "--points", f, "--points-output", f), "--points-output is the input --fixed"),
        (("warp", "-i", f, "-r", f, "-o", "x.nii.gz", "--compose", "x.nii.gz"), "two outputs have the same path"),
        (("warp", "-i", f, "-r", f, "-t", f"[{m},1]", "-o", m), "output --output is the input --transform"),
        (("evaluate", "--warp", f, "--csv", "x.csv", "--plot", "x.csv"), "two outputs have the same path"),
        (("template", "--images", f"{scans}/*_t1.nii.gz", "-o", m), "output --output is the input image"),
    ):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in (*words, *extra)])
        err = capsys.readouterr().err
        if words[0] == "template" and not extra:
            said = "exists; use --overwrite"
        assert end.value.code == 1 and said in err and err.count("\n") == 1
        assert snapshot(tmp_path) == before


def test_links_as_outputs(fastreg, scans, tmp_path):
    f = scans / "s0_t1.nii.gz"
    (tmp_path / "store").write_text("precious")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "store")
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nothing")
    for name in ("link", "dangling"):
        words = ("warp", "-i", f, "-r", f, "-o", tmp_path / f"{name}.nii.gz")
        refused(fastreg, tmp_path, *words, said=f"{name}.nii.gz is a link to")
        assert fastreg(*words, "--overwrite").code == 0
        assert not (tmp_path / f"{name}.nii.gz").is_symlink()
    assert (tmp_path / "store").read_text() == "precious" and not (tmp_path / "nothing").exists()


def test_modes_are_kept_and_the_umask_is_not_touched(tmp_path, monkeypatch):
    def write(name):
        with atomic(tmp_path / name) as partial:
            partial.write_text("new")
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the process', not a thread's"))
    plain = os.open(tmp_path / "plain", os.O_CREAT | os.O_WRONLY, 0o666)
    assert write("fresh") == stat.S_IMODE(os.fstat(plain).st_mode)
    os.close(plain)
    for mode in (0o600, 0o640, 0o444):
        (tmp_path / "old").write_text("old")
        (tmp_path / "old").chmod(mode)
        assert write("old") == mode and (tmp_path / "old").read_text() == "new"
        (tmp_path / "old").unlink()
    assert write("a" * 240 + ".nii.gz")  # as long as names may be


def test_pipes_and_devices_are_no_files(fastreg, scans, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "out.csv").symlink_to("/dev/null")
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    for name in ("pipe.csv", "out.csv"):
        words = ["warp", "-r", scans / "s0_t1.nii.gz", "--points", "p.csv", "--points-output", name, "--overwrite"]
        ended = fastreg(*words)
        assert ended.code == 1 and "is a device or a pipe" in ended.line, ended
    with pytest.raises(OSError, match=r"pipe\.csv"), atomic(tmp_path / "pipe.csv"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe.csv").stat().st_mode)


def test_an_output_that_comes_while_the_work_is_done(scans, tmp_path, monkeypatch, capsys):
    from fastreg.cli import main
    from fastreg.registration import files

    plain = files.register

    def register(*args, **options):
        (tmp_path / "x.nii.gz").write_text("precious")
        return plain(*args, **options)

    monkeypatch.setattr(files, "register", register)
    words = ["register", "-f", scans / "s0_t1.nii.gz", "-m", scans / "s1_t1.nii.gz", "--transform", "translation"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in (*words, "-o", tmp_path / "x.nii.gz", "--affine-out", tmp_path / "a.mat")])
    assert end.value.code == 1 and "x.nii.gz exists" in capsys.readouterr().err
    assert (tmp_path / "x.nii.gz").read_text() == "precious" and not (tmp_path / "a.mat").exists()


def test_paths_apart(tmp_path):
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")
    check_apart({"--a": tmp_path / "x", "--b": tmp_path / "y"}, [("--c", tmp_path / "x")])  # not there: no input
    with pytest.raises(InputError, match="output --a is the input --c"):
        check_apart({"--a": tmp_path / "link"}, [("--c", tmp_path / "real")])


def test_the_home_folder(fastreg, scans, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    from fastreg.cli._paths import expand_home
    from fastreg.cli.register import Register
    from fastreg.cli.warp import Warp

    options = Warp(transform=["~/a.mat", "b.mat"], output="~/x")
    expand_home(options)
    assert options.transform == [str(tmp_path / "home" / "a.mat"), "b.mat"] and options.output == f"{tmp_path}/home/x"
    many = Register(save="~", moved=tmp_path)
    expand_home(many)
    assert many.moved == tmp_path
