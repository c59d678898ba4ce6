"""What status and watch print of a folder that somebody else wrote: text, and nothing that a terminal obeys."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.live import Live
from rich.table import Table

from s3ray.cli import main
from s3ray.monitor.campaign import campaign_status
from s3ray.monitor.terminal import Terminal
from s3ray.storage.run_folder import RunStore
from tests.monitor.run_folder import write_run

# Clears the screen, names the window, asks it to type that name, turns text around, begins a sequence in one byte.
EVIL = "x\x1b[2J\x1b]0;rm -rf ~\x07\x1b[21t\u202eevil\x9b31m"
MARKUP = "[red]danger[/red] [/] [link=http://evil.example]here[/link] :bomb:"
_OURS = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\x1b\[\d+[A-D]|\r")


def obeyed(text: str) -> list[str]:
    """All that a terminal would obey but for colours and the cursor's own movements."""
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _OURS.sub("", text))


def poison(path: Path, text: str) -> None:
    """Put ``text`` into every string of every event but the names of events, stages and states."""

    def spoilt(value: Any) -> Any:
        return {name: f"{each} {text}" if isinstance(each, str) else each for name, each in value.items()}

    plain = ("event", "stage", "phase", "chunk")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    events = [{**spoilt(event), **{name: event[name] for name in plain if name in event}} for event in events]
    events.append({**events[-1], "event": "run_failed", "problem": text})
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def s3ray(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["s3ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("command", "code"), [("status", 0), ("watch", 3)])
def test_a_terminal_obeys_nothing_that_a_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    store = write_run(tmp_path / "run")
    poison(store.path("events.jsonl"), EVIL)
    assert s3ray(monkeypatch, command, str(store.root)) == code
    told = capsys.readouterr()
    assert "rm -rf" in told.out
    assert not obeyed(told.out + told.err)


def test_markup_of_a_run_is_shown_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_run(tmp_path / "run")
    poison(store.path("events.jsonl"), MARKUP)
    assert s3ray(monkeypatch, "status", str(store.root)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(MARKUP) >= 2  # the run's name, and why it failed


def test_names_of_a_campaign_s_runs_are_text_too(tmp_path: Path) -> None:
    name = f"{MARKUP} {EVIL}".replace("/", "|")
    store = RunStore(tmp_path / "campaign")
    started = {"event": "campaign_started", "run": EVIL, "attempt": 1, "time": 1.0, "runs": 1, "finished": 0}
    of_run = {"event": "run_failed", "run": name, "attempt": 1, "time": 2.0, "problem": EVIL}
    store.write_text("events.jsonl", "".join(json.dumps(event) + "\n" for event in (started, of_run)))
    terminal = Terminal(file=io.StringIO(), width=500, force_terminal=True)
    terminal.print(campaign_status(store, 3.0))
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert not obeyed(shown)
    assert "[red]danger[|red]" in shown


def test_a_live_table_is_drawn_and_obeys_its_texts_no_more() -> None:
    """What is redrawn in place moves the cursor: those sequences are rich's, and must pass."""
    terminal = Terminal(file=io.StringIO(), width=200, force_terminal=True)
    table = Table.grid()
    table.add_row("problem", EVIL)
    with Live(table, console=terminal, auto_refresh=False) as live:
        live.refresh()
        terminal.print(EVIL)
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert "\x1b[1A" in shown or "\x1b[2K" in shown
    assert not obeyed(shown)
