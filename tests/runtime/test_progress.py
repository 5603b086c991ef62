"""Long work says how far it is, on stderr, once in a while."""

from __future__ import annotations

from benchmark.runtime.progress import Progress


def test_the_line_estimates_what_is_left():
    progress = Progress(4, "attack")
    assert progress.line(5.0) == "attack: 0/4, 0:05 gone, ? left"
    progress.advance()
    assert progress.line(1300.0) == "attack: 1/4, 21:40 gone, 1:05:00 left"


def test_lines_go_to_stderr_and_are_spaced(capsys):
    with Progress(3, "attack", every=0.0) as often, Progress(3, "attack") as seldom:
        for _ in range(3):
            often.advance()
            seldom.advance()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(",")[0] for line in printed.err.splitlines()] == [
        "attack: 1/3",
        "attack: 2/3",
        "attack: 3/3",
    ]


def test_without_a_description_nothing_is_said(capsys):
    with Progress(1, "", every=0.0) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(2, "attack") as progress:
        progress.advance()
        progress.tick()
    assert "1/2" in capsys.readouterr().err
