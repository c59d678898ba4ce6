"""Every command on thousands of broken inputs: each ends with a message that names a file or field, never a traceback.

Broken are jobs, tasks, grids and rows: keys missing, values of other types, huge numbers, odd signs, files cut short or
overwritten, folders in place of files. So are options and the environment. The same cases on every machine; nothing is
started.
"""

import csv
import gzip
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.security.breaking import RUBBISH, Restored
from tests.security.fuzzing import fuzz, make_calls_cheap, s3ray
from tests.security.worlds import JOB, make_inputs, rows, write_rows

COMMANDS: dict[str, tuple[str, ...]] = {
    "plan": ("plan", "job.yaml"),
    "run": ("run", "job.yaml", "--local", "--out", "file"),  # no run can lie there: only its checks are made
    "compare": ("compare", "grid.yaml", "--out", "file/x"),
    "submit": ("submit", "job.yaml", "--address", "http://127.0.0.1:1", "--out", "/x"),
    "bench": ("bench", "job.yaml", "--out", "file"),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "plan": ("--set", "--fresh", "--out"),
    "run": ("--set", "--fresh"),
    "compare": ("--set",),
    "submit": ("--set", "--env", "--retries", "--no-wait"),
    "bench": ("--set", "--engines", "--max-num-seqs", "--prompts", "--requests", "--repeat", "--min-seconds"),
    "init": ("--label", "--writes", "--leave-out"),
}
FIELDS = (
    *("generator.engines", "generator.sampling.temperature", "strategy", "strategy.rounds", "seed", "store", "name"),
    *("gold.test", "task", "data", "student.model", "cluster.address", "nothing", "generator.nothing", "", ".", "a..b"),
    *("seeds", "axes", "axes.strategy", "job.generator.engines", "placement.mode", "curation.verify"),
)
VARIABLES = (
    *("HF_HOME", "HF_TOKEN", "TMPDIR", "RAY_TMPDIR", "HOME", "XDG_CACHE_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS"),
    *("LINES", "TERM", "LANG", "LC_ALL", "PYTHONUTF8", "PYTHONIOENCODING", "TZ", "http_proxy", "https_proxy"),
    *("all_proxy", "no_proxy", "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "OMP_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "RAY_API_SERVER_ADDRESS", "TQDM_DISABLE", "USER", "LOGNAME", "PATH", "OPENAI_API_KEY"),
)
WORDS = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "80",
        "1e9",
        "9" * 30,
        "x",
        "é🙂",
        "C",
        "de_DE.UTF-8",
        "utf-16",
        "dumb",
        "/",
        "/dev/null",
    ),
    *(
        "/no/such/place",
        "a" * 300,
        "file",
        "file/x",
        "127.0.0.1:1",
        "http://127.0.0.1:1",
        "ray://127.0.0.1:1",
        "[::1]:1",
    ),
    *("socks5://127.0.0.1:1", "a:b", "*", "yes", "\udc80", "\n", "../..", "%s{}", "local", "[red]"),
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    with pytest.MonkeyPatch.context() as patch:
        make_calls_cheap(patch)
        folder = tmp_path_factory.mktemp("inputs") / "world"
        make_inputs(folder)
        make_tables(folder)
        patch.chdir(folder)
        yield Restored(folder)


def make_tables(folder: Path) -> None:
    """Rows as `init` takes them, in each of the formats."""
    (folder / "tables").mkdir()
    made = [
        {"id": number, "text": f"{row['text']} and more words", "label": ("bad", "good")[row["label"]], "note": None}
        for number, row in enumerate(rows(random.Random(1)))
    ]
    write_rows(folder / "tables/rows.jsonl", made)
    (folder / "tables/rows.json").write_text(json.dumps(made))
    pq.write_table(pa.Table.from_pylist(made), folder / "tables/rows.parquet")
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
        with (folder / "tables" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(made[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(made)
    (folder / "tables/rows.csv.gz").write_bytes(gzip.compress((folder / "tables/rows.csv").read_bytes()))


@pytest.fixture
def put_right(inputs: Restored) -> Iterator[Callable[[], None]]:
    """Put folder and environment right again."""
    environment = dict(os.environ)

    def put() -> None:
        inputs.put_right()
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
            tempfile.tempdir = None

    yield put
    put()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_broken_input_ends_in_a_traceback(name: str, inputs: Restored, put_right: Callable[[], None]) -> None:
    files = [file for file in inputs.files if file.name in ("job.yaml", "task.yaml", "data.jsonl")]
    files += [file for file in inputs.files if file.name == ("grid.yaml" if name == "compare" else "job.yaml")] * 2

    def broken(draw: random.Random) -> tuple[str, ...]:
        chance = draw.random()
        if chance < 0.75:
            inputs.spoil(draw.choice(files), draw)
        options = odd_options(name, draw) if chance > 0.6 else ()
        if chance > 0.8:
            set_odd_variables(draw)
        return (*COMMANDS[name], *options)

    fuzz(name, broken, put_right)


def test_no_table_that_is_broken_ends_init_in_a_traceback(inputs: Restored, put_right: Callable[[], None]) -> None:
    files = [file for file in inputs.files if file.parent.name == "tables"]

    def broken(draw: random.Random) -> tuple[str, ...]:
        file = draw.choice(files)
        if draw.random() < 0.9:
            inputs.spoil(file, draw)
        options = odd_options("init", draw) if draw.random() < 0.2 else ()
        if draw.random() < 0.1:
            set_odd_variables(draw)
        return ("init", str(file.relative_to(inputs.folder)), *options)

    fuzz("init", broken, put_right)


def odd_options(name: str, draw: random.Random) -> tuple[str, ...]:
    """One or two options of a command, with values that make little sense."""
    chosen = []
    for _ in range(draw.choice([1, 1, 2])):
        option = draw.choice(OPTIONS[name])
        if option.startswith(("--fresh", "--no-")):
            chosen += [option]
        elif option == "--set":
            value = draw.choice(RUBBISH)
            odd = str(value) if draw.random() < 0.5 else json.dumps(value)
            chosen += [option, f"{draw.choice(FIELDS)}{draw.choice(['=', '=', '=', ''])}{odd}"]
        else:
            chosen += [option, draw.choice(["text", "label", "good", *WORDS])]
    return tuple(chosen)


def set_odd_variables(draw: random.Random) -> None:
    """Set some variables of the environment to what they should not be."""
    for variable in draw.sample(VARIABLES, draw.choice([1, 2, 4])):
        os.environ[variable] = draw.choice(WORDS)
    tempfile.tempdir = None


@pytest.mark.parametrize(
    "address", ["x", "127.0.0.1:1", "ray://127.0.0.1:1", "http://127.0.0.1:1", "[::1]:1", "a b:6379"]
)
def test_an_odd_ray_address_is_named(
    address: str, inputs: Restored, put_right: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, text = s3ray("plan", "job.yaml", "--set", "cluster.address=auto")
    put_right()
    assert (code, "RAY_ADDRESS" in text) == (2, True), text


@pytest.mark.parametrize("place", ["\0", "a\0b.yaml"])
def test_a_path_that_no_file_can_have_is_refused(place: str) -> None:
    code, text = s3ray("plan", place)
    assert (code, "Traceback" in text) == (2, False)


@pytest.mark.parametrize("field", ["generator.model", "store", "student.model", "cluster.address"])
def test_half_a_character_in_a_job_is_refused(tmp_path: Path, field: str) -> None:
    job: dict[str, Any] = json.loads(json.dumps(JOB))
    holder, _, name = field.rpartition(".")
    (job[holder] if holder else job)[name] = "a \ud800"
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    code, text = s3ray("plan", str(tmp_path / "job.yaml"))
    assert code == 2
    assert f"{field}: holds half a character" in text


@pytest.mark.parametrize("number", [10_001, 2**31, 10**30])
def test_engines_without_end_are_refused_before_they_are_placed(
    number: int, inputs: Restored, put_right: Callable[[], None]
) -> None:
    code, text = s3ray("plan", "job.yaml", "--set", f"generator.engines={number}")
    put_right()
    assert (code, "generator.engines: input should be less than or equal to 10000" in text) == (2, True)
