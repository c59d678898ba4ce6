"""What is measured follows from the job and the lists; wrong lists are refused.

The requests are the strategy's own; what a student would have told is stood in for, for every strategy.
"""

from collections import Counter
from typing import Any

import pytest

from s3ray.bench.profile import Sweep
from s3ray.bench.sweep import (
    PROMPTS,
    VARIANTS,
    Options,
    PromptSource,
    cells_of,
    known_prompts,
    make_sweep,
    read_numbers,
    split,
)
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.errors import InputError
from s3ray.strategies import STRATEGIES, make_strategy
from s3ray.tasks import load_task
from s3ray.tasks.gold import GoldSplit, load_gold
from s3ray.types import GenerationRequest


def config(**generator: object) -> RunConfig:
    settings = {"engine": "vllm", "model": "m", "engines": 2, "max_num_seqs": 16, "max_num_batched_tokens": 1024}
    return validate(RunConfig, {"name": "job", "task": "imdb", "generator": settings | generator})


def sweep(known: tuple[str, ...] = PROMPTS, **lists: str) -> Sweep:
    return make_sweep(config(), known, Options(**lists))  # type: ignore[arg-type]


def swept(engines: tuple[int, ...], limits: tuple[int, ...], requests: int, repeats: int = 1) -> Sweep:
    return Sweep(
        engines=engines, max_num_seqs=limits, prompts=("seed",), requests=requests, repeats=repeats, min_seconds=10.0
    )


def test_the_job_decides_what_the_command_line_leaves_out() -> None:
    cells = cells_of(sweep())
    told = [(cell.engines, cell.max_num_seqs, cell.prompts, cell.requests, cell.repeat) for cell in cells]
    assert told == [(2, 16, "seed", 256, 0), (2, 16, "extrapolate", 256, 0)]


def test_requests_keep_the_largest_batch_full() -> None:
    assert sweep(engines="1,4", max_num_seqs="16,64").requests == 8 * 4 * 64


def test_a_job_that_leaves_the_limit_to_the_card_is_measured_so() -> None:
    job = config(max_num_seqs="auto", max_num_batched_tokens=128)
    (cell,) = cells_of(make_sweep(job, ("seed",), Options()))
    assert (cell.max_num_seqs, cell.num_warm_up, cell.requests) == ("auto", 2 * 256, 8 * 2 * 256)
    assert cell.config(job).generator.max_num_seqs == "auto"
    assert [each.max_num_seqs for each in cells_of(make_sweep(job, ("seed",), Options(max_num_seqs="64")))] == [64]


def test_several_engine_counts_are_measured_with_equal_work_and_with_equal_work_for_each() -> None:
    measured = {(cell.engines, cell.requests) for cell in cells_of(swept((2, 4), (8,), 100))}
    assert measured == {(2, 100), (4, 100), (4, 200)}


def test_repeats_are_whole_sweeps_one_after_the_other() -> None:
    cells = cells_of(swept((1,), (8, 16), 10, repeats=2))
    assert [(cell.repeat, cell.max_num_seqs) for cell in cells] == [(0, 8), (0, 16), (1, 8), (1, 16)]


def test_a_cell_changes_engines_and_limit_and_nothing_else() -> None:
    job = config(min_engines=1)
    (cell,) = cells_of(swept((3,), (5,), 10))
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


TASK = load_task("review_sentences")
KNOWN = {
    "gold": [],
    "zerogen": ["seed"],
    "goldgen": ["seed", "extrapolate"],
    "progen": ["seed"],
    "s3": ["seed", "extrapolate"],
    "transfer": ["seed", "extrapolate"],
    "llm2llm": ["extrapolate"],
    "s3plus": ["seed", "extrapolate"],
}


def job(name: str, **strategy: Any) -> tuple[RunConfig, GoldSplit]:
    rows = {} if name in ("s3", "s3plus", "transfer", "llm2llm", "gold") else {"rows": 80}
    settings = {"name": name, "rounds": 1, "seed_examples": 20, **rows, **strategy}
    raw = {
        "name": "job",
        "task": TASK.name,
        "gold": {"extrapolate": 30, "select": 10, "test": 10},
        "strategy": settings,
        "generator": {"engine": "fake", "prompt_form": "completion"},
    }
    config = validate(RunConfig, raw)
    return config, load_gold(TASK, config.gold)


def requests(prompts: str, name: str, total: int, **strategy: Any) -> list[GenerationRequest]:
    config, gold = job(name, **strategy)
    source = PromptSource(prompts, config, TASK, gold, "fingerprint", total)
    return source.requests(source.context)


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_has_its_sets(name: str) -> None:
    config, gold = job(name)
    assert known_prompts(config, TASK, gold) == KNOWN[name]


@pytest.mark.parametrize(("name", "prompts"), [(name, each) for name, known in KNOWN.items() for each in known])
@pytest.mark.parametrize("total", [7, 200])
def test_there_are_as_many_as_asked_for_each_in_its_place(name: str, prompts: str, total: int) -> None:
    made = requests(prompts, name, total)
    assert len(made) == total
    assert [request.index for request in made] == list(range(total))
    assert len({request.id for request in made}) == total
    assert {request.template for request in made} == {prompts}
    for request in made:
        assert TASK.render(request, "completion").text


def test_seed_requests_are_those_of_a_run() -> None:
    config, gold = job("s3")
    source = PromptSource("seed", config, TASK, gold, "fingerprint", 40)
    (plan,) = make_strategy(config.strategy).example_stages(source.context)
    assert source.requests(source.context) == [next(plan.requests) for _ in range(40)]
    assert source.context.gold == gold.extrapolate


@pytest.mark.parametrize("name", ["goldgen", "s3", "transfer", "llm2llm"])
def test_variants_of_a_row_follow_each_other(name: str) -> None:
    made = requests("extrapolate", name, 40)
    turns = Counter(request.parent.id for request in made if request.parent)
    assert set(turns.values()) == {VARIANTS}
    for start in range(0, 40, VARIANTS):
        assert len({request.group for request in made[start : start + VARIANTS]}) == 1


def test_more_requests_than_rows_have_variants_go_over_the_rows_more_often() -> None:
    made = requests("extrapolate", "s3", 300)
    assert len({request.parent.id for request in made if request.parent}) == 30
    assert len(made) == 300


def test_the_wrong_answer_is_another_label() -> None:
    for request in requests("extrapolate", "llm2llm", 20):
        assert request.predicted in TASK.labels
        assert request.predicted != request.label


def test_the_warm_up_asks_for_something_else() -> None:
    made = requests("seed", "s3", 50)
    measured, warm_up = split(made, 40, 10)
    assert measured == made[:40]
    assert [request.index for request in warm_up] == list(range(10))
    assert not {request.id for request in warm_up} & {request.id for request in measured}
