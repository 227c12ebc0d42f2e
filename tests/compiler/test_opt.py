"""The command line of `metagrad-opt`, where the files in passes/ cannot see it."""

import pathlib

import pytest

from metagrad.compiler import opt

FILE = pathlib.Path(__file__).parent / "passes" / "command_line.mlir"


@pytest.mark.parametrize("flag, expected", [("--verify-each", 3), ("--no-verify-each", 2)])
def test_how_often_the_module_is_verified(monkeypatch, flag, expected):
    """Before the first pass, and after the last or after every one."""
    verified = []
    verify = opt.verify.run
    monkeypatch.setattr(opt.verify, "run", lambda module: (verified.append(1), verify(module)))
    assert opt.main([str(FILE), "--pass=cut,differentiate", flag]) == 0
    assert len(verified) == expected


def test_the_result_is_all_of_the_standard_output(capsys):
    """What is printed after a pass, and the times, go to the standard error."""
    assert opt.main([str(FILE), "--pass=cut"]) == 0
    alone = capsys.readouterr().out
    assert opt.main([str(FILE), "--pass=cut", "--print-after=all", "--timing"]) == 0
    out, err = capsys.readouterr()
    assert out == alone and alone in err and err.endswith(" s  total\n")
