"""`python -m bench`: every command is listed, has its own help, and fails as a program should."""

import subprocess
import sys

import pytest

from bench import child
from bench.__main__ import COMMANDS, main
from bench.suite import PARTS


@pytest.fixture
def said(capsys):
    def run(*words):
        try:
            code = main(list(words))
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def test_help_lists_everything(said):
    code, out, _ = said("--help")
    assert code == 0
    for name in (*PARTS, *COMMANDS):
        assert f"python -m bench {name}" in out or f" {name} " in out, name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(said, command):
    pytest.importorskip("matplotlib")
    code, out, _ = said(command, "--help")
    assert code == 0 and out.startswith(f"usage: python -m bench {command} [-h]")


def test_what_is_asked_for_wrongly(said, tmp_path):
    code, _, complaint = said("exactnes")
    assert code == 2 and "PART must be some of exactness, speed, memory, jobs" in complaint
    code, _, complaint = said("report", str(tmp_path / "none.json"))
    assert code == 1 and complaint.startswith("error: results ") and complaint.count("\n") == 1
    assert said("speed", "--only", "lnc", "--group", "none")[0] == 1
    assert said("exactness", "--threads", "0")[0] == 2


def test_what_nvcc_makes_of_the_kernels_is_told_without_torch():
    code = "import sys; from bench.__main__ import main; import bench.cuda.sass; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=child.environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
