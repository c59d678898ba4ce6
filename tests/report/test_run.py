"""report.html: what it shows of finished and unfinished runs."""

import html
import re
from pathlib import Path

import pyarrow as pa
import pytest

from s3ray.report.examples import seeds, stories, written_field
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.telemetry.events import EventLog
from s3ray.types import Example, Origin, Source, Span
from tests.events import an_event
from tests.monitor.run_folder import REASONS, SCRIPT, Clock, new_store, report, start_run, write_round, write_run


@pytest.fixture
def page(finished: RunStore) -> str:
    return Path(write_report(finished)).read_text(encoding="utf-8")


def test_report_says_the_result_and_shows_the_plots(page: str) -> None:
    assert "Selection accuracy rose from 0.775 on seed data to 0.838 after round 2" in page
    assert "the final student scores 0.827" in page
    for title in ("Score by round", "Yield by reason", "Throughput over time", "Where the time went", "Who did what"):
        assert title in page
    assert page.count("<svg") == 4 + 3  # of the last plot, one for each engine and for the train workers
    assert "200 of 340 kept (59%)" in page
    assert "Round 2, stage extrapolate, is short of its target: positive 3." in page


def test_report_needs_no_network(page: str) -> None:
    assert not re.search(r"""(src|href|srcset|action)\s*=|url\(|@import|https?:""", page)


def test_what_a_model_wrote_is_escaped(page: str) -> None:
    assert SCRIPT not in page
    assert html.escape(SCRIPT, quote=False).replace("'", "&#39;") in page
    assert "<script" not in page


def test_report_shows_mistakes_with_what_was_written_from_them(finished: RunStore, page: str) -> None:
    told = stories(finished)
    assert {story.round for story in told} == {1, 2}
    assert {story.target for story in told} == {"negative", "positive"}
    for story in told:
        assert story.predicted not in (None, story.target)
        assert {item.kept for item in story.written} == {True, False}
        assert html.escape(story.texts["text"]) in page
    assert "near duplicate" in page


def test_report_shows_seeds_of_each_label_and_the_reasons_given(finished: RunStore, page: str) -> None:
    shown = seeds(finished)
    assert [item.target for item in shown if item.kept] == ["negative", "negative", "positive", "positive"]
    assert [item.reason for item in shown if not item.kept] == ["duplicate", "truncated", "near_duplicate"]
    assert REASONS["positive"][1] in page


def test_report_shows_what_each_engine_did(page: str) -> None:
    assert _engine_rows(page) == {
        "engine-0": ["13.5k", "36.0k", "75%", "24", "3", "31%", "2", "0", "100%"],
        "engine-1": ["12.7k", "34.0k", "75%", "16", "0", "31%", "3", "1", "80%"],
        "all 2": ["26.2k", "70.0k", "75%", "40", "3", "31%", "5", "1", "90%"],
    }


def test_report_pools_many_engines_and_names_what_ended_badly(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    assert "<h2>Engines" not in Path(write_report(store)).read_text(encoding="utf-8")
    for num in range(9):
        engines = {f"engine-{i}": report(clock, f"engine-{i}", output_tokens=5) for i in range(num + 1)}
        log.emit(an_event(
            "chunk_written", round=0, stage="seed", chunk=str(num), rows=90, rejected={}, failed={}, output_tokens=0,
            accepted=9, target=200, starving=[], engines=engines,
        ))  # fmt: skip
        if num == 0:
            log.emit(an_event("engine_given_up", engine="engine-0", problem="gone", running=0, wanted=9))
            assert list(_engine_rows(Path(write_report(store)).read_text(encoding="utf-8"))) == ["engine-0 (given up)"]
    pooled = _engine_rows(Path(write_report(store)).read_text(encoding="utf-8"))
    assert list(pooled) == ["all 9"]
    assert pooled["all 9"][0] == "225"


def _engine_rows(page: str) -> dict[str, list[str]]:
    (table,) = re.findall(r'<table class="cards engines">(.*?)</table>', page, re.DOTALL)
    rows = re.findall(r"<tr[^>]*><th>(.+?)</th>(<td.*?)</tr>", table)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in rows}


def test_the_same_folder_gives_the_same_report(finished: RunStore, page: str) -> None:
    assert Path(write_report(finished)).read_text(encoding="utf-8") == page


def test_report_of_a_run_that_is_not_finished(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    empty = Path(write_report(store)).read_text(encoding="utf-8")
    assert "This run has not finished" in empty
    assert "No student has been trained yet." in empty
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    write_round(store, log, clock, 0)
    log.emit(an_event("run_failed", problem="no engine left"))
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "The run failed: no engine left" in page
    assert "Yield by reason" in page


def test_report_of_strategy_gold(tmp_path: Path) -> None:
    page = Path(write_report(write_run(tmp_path / "gold", "gold"))).read_text(encoding="utf-8")
    assert "The student reaches accuracy 0.775 on the selection part of gold" in page
    assert "Score by round" in page
    assert "Yield by reason" not in page


def _span_table(source: Source, questions: list[str]) -> pa.Table:
    rows = [
        Example(
            id=f"{source}-{i}",
            fields={"question": question, "context": f"The lighthouse of bay {i} was built in 18{i}0."},
            answers=(Span(text=f"18{i}0", start=37),),
            origin=Origin(source=source),
        )
        for i, question in enumerate(questions)
    ]
    return table_from_examples(rows, ("question", "context"), False)


def test_stories_of_a_span_task_show_the_question_that_was_written(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    gold = _span_table(Source.GOLD, ["When was it built?"])
    written = _span_table(Source.EXTRAPOLATED, ["How old is it?"])
    written = written.set_column(written.schema.get_field_index("parent"), "parent", [["gold-0"]])
    store.write_table(store.gold("extrapolate"), gold)
    mistakes = gold.append_column("predicted", [["lighthouse"]]).append_column("confidence", [[0.4]])
    store.write_table(store.mistakes(0), mistakes)
    write_round(store, EventLog(store, "quickstart", 1, clock), clock, 1)
    store.write_table(store.accepted(1), written)
    (story,) = stories(store)
    assert (story.target, story.predicted) == ("1800", "lighthouse")
    assert [(dict(item.texts), item.target) for item in story.written if item.kept] == [
        ({"question": "How old is it?"}, "1800")
    ]
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "How old is it?" in page


def test_the_written_field_is_the_one_that_is_not_a_copy_of_gold() -> None:
    gold = _span_table(Source.GOLD, ["When was it built?", "In which year?"])
    written = _span_table(Source.EXTRAPOLATED, ["How old is it?", "Since when does it shine?"])
    assert written_field([written], gold) == "question"
