"""Long work says how far it is, on stderr, once in a while."""

from __future__ import annotations

import time

import pytest

from benchmark.runtime import progress as module
from benchmark.runtime.progress import clock, progress


def test_a_log_gets_a_line_at_times_with_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.2)
    with progress(3, "attack") as bar:
        bar.update()
        assert capsys.readouterr().err == ""
        time.sleep(0.25)
        bar.update()
        bar.update()
        time.sleep(0.25)
        bar.update(0)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(",")[0] for line in printed.err.splitlines()] == [
        "attack: 2/3",
        "attack: 3/3",
    ]
    assert printed.err.splitlines()[0] == "attack: 2/3, 00:00 gone, 00:00 left"


def test_without_a_description_nothing_is_said(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    with progress(1, "") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress(2, "attack") as bar:
        bar.update()
        bar.refresh()
    assert "1/2" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "says"), [(59.6, "01:00"), (3900.0, "1:05:00")])
def test_a_time_is_said_in_hours_minutes_seconds(seconds, says):
    assert clock(seconds) == says
