"""What is measured follows from the job and the lists; wrong lists are refused."""

import pytest

from s3ray.bench.sweep import PROMPTS, Sweep, make_sweep, read_numbers
from s3ray.config import RunConfig
from s3ray.errors import InputError
from s3ray.jobfile import validate


def config(**generator: object) -> RunConfig:
    settings = {"engine": "vllm", "model": "m", "engines": 2, "max_num_seqs": 16, "max_num_batched_tokens": 1024}
    return validate(RunConfig, {"name": "job", "task": "imdb", "generator": settings | generator})


def sweep(known: tuple[str, ...] = PROMPTS, **lists: str) -> Sweep:
    given: dict[str, str | None] = {"engines": None, "max_num_seqs": None, "prompts": None} | lists
    return make_sweep(
        config(),
        known,
        engines=given["engines"],
        max_num_seqs=given["max_num_seqs"],
        prompts=given["prompts"],
        requests=None,
        repeats=1,
    )


def test_the_job_decides_what_the_command_line_leaves_out() -> None:
    cells = sweep().cells()
    told = [(cell.engines, cell.max_num_seqs, cell.prompts, cell.requests, cell.repeat) for cell in cells]
    assert told == [(2, 16, "seed", 256, 0), (2, 16, "extrapolate", 256, 0)]


def test_requests_keep_the_largest_batch_full() -> None:
    assert sweep(engines="1,4", max_num_seqs="16,64").requests == 8 * 4 * 64


def test_several_engine_counts_are_measured_with_equal_work_and_with_equal_work_for_each() -> None:
    measured = {
        (cell.engines, cell.requests)
        for cell in Sweep(engines=(2, 4), max_num_seqs=(8,), prompts=("seed",), requests=100, repeats=1).cells()
    }
    assert measured == {(2, 100), (4, 100), (4, 200)}


def test_repeats_are_whole_sweeps_one_after_the_other() -> None:
    cells = Sweep(engines=(1,), max_num_seqs=(8, 16), prompts=("seed",), requests=10, repeats=2).cells()
    assert [(cell.repeat, cell.max_num_seqs) for cell in cells] == [(0, 8), (0, 16), (1, 8), (1, 16)]


def test_a_cell_changes_engines_and_limit_and_nothing_else() -> None:
    job = config(min_engines=1)
    (cell,) = Sweep(engines=(3,), max_num_seqs=(5,), prompts=("seed",), requests=10, repeats=1).cells()
    changed = cell.config(job)
    assert (changed.generator.engines, changed.generator.max_num_seqs) == (3, 5)
    assert changed.generator.min_engines is None, "all engines of a cell must fit"
    put_back = {"engines": 2, "max_num_seqs": 16, "min_engines": 1}
    assert changed.generator.model_copy(update=put_back) == job.generator


@pytest.mark.parametrize("text", ["", "1,", "0", "-1", "1.5", "many", "1;2", "9999999", "²"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no list of numbers") as refusal:
        read_numbers(text, "--engines")
    assert refusal.value.where == "--engines"
    assert text in refusal.value.value


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"engines": "2,2"}, "names a number twice"),
        ({"max_num_seqs": "16,2048"}, "more than a step can hold"),
        ({"prompts": "seed,seeds"}, "is no set of prompts"),
        ({"prompts": "seed,seed"}, "names a set twice"),
        ({"prompts": "extrapolate"}, "strategy s3 writes no such prompts"),
    ],
)
def test_wrong_lists_are_refused(lists: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        sweep(("seed",), **lists)
