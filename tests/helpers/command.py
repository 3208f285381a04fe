"""The command line, called as a user calls it."""

import pytest

from fastreg.cli import main


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    return out
