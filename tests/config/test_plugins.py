"""Strategies and engines of other packages: what is refused before anything starts, and what is said of it."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import GeneratorConfig, RunConfig, StrategyConfig
from s3ray.config.shaping import data_shaping
from s3ray.errors import InputError, located
from s3ray.generator.actor import EngineHost
from s3ray.generator.engines import ENGINES, engine_class, make_engine
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.worker import ServedTask
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from s3ray.strategies import like_builtin, make_strategy
from s3ray.strategies.check import check_strategy
from s3ray.strategies.s3 import S3
from tests.sources import TASK

Install = Callable[[str], None]

SUREST = """
from s3ray.strategies.s3 import S3
from s3ray.strategies.s3plus import S3Plus

class Surest(S3):
    def in_words(self):
        return "the surest"

class Mixed(S3Plus):
    pass

class Outer:
    class Inner(S3):
        pass
"""
HOLLOW = """
from s3ray.strategies.base import Strategy
from s3ray.strategies.s3 import S3

class Hollow(Strategy):
    last_round = 2

class Wrong(S3):
    def last_round(self):
        return 1
    def num_rows(self, round_):
        return 1
    training = range(3)
    def __init__(self):
        pass

class Stranger:
    pass

number = 3
"""
ENGINES_OF_OURS = """
from s3ray.generator.engines.fake import FakeEngine

class Slow(FakeEngine):
    needs_devices = True

class Empty:
    async def start(self):
        pass
    def generate(self, request_id, prompt):
        pass
"""


class AtHome(S3):
    """Importable by its path, as a class in a package is."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write ``my_package/mine.py`` into a folder outside the repository, where this process can import it."""

    def write(code: str) -> None:
        (tmp_path / "my_package").mkdir()
        (tmp_path / "my_package" / "__init__.py").touch()
        (tmp_path / "my_package" / "mine.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def job(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "job", "task": "review_sentences", **sections})


def refused(do: Callable[[], object], field: str) -> str:
    with pytest.raises(InputError) as caught, located("job.yaml"):
        do()
    assert (caught.value.where, caught.value.field) == ("job.yaml", field)
    assert caught.value.hint
    return str(caught.value)


def test_a_strategy_of_another_package_runs_and_shapes_the_data(install: Install) -> None:
    install(SUREST)
    config = job(strategy={"name": "my_package.mine:Surest"})
    assert make_strategy(config.strategy).in_words() == "the surest"
    assert data_shaping(config)["strategy"]["name"] == "my_package.mine:Surest"
    assert type(make_strategy(StrategyConfig(name="my_package.mine:Outer.Inner"))).__name__ == "Inner"
    check_strategy(config.strategy, TASK, "completion")


def test_it_keeps_the_rules_of_what_it_derives_from(install: Install) -> None:
    install(SUREST)
    mixed = StrategyConfig.model_validate({"name": "my_package.mine:Mixed", "plus": {"coverage": 0.0}})
    assert like_builtin(mixed).name == "s3plus"
    assert like_builtin(StrategyConfig(name="zerogen", rows=10)).name == "zerogen"
    given = StrategyConfig(name="my_package.mine:Surest", seed_examples=0)
    assert "needs `seed_examples`" in refused(lambda: check_strategy(given, TASK, "completion"), "strategy")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.mine:Surest", ["nowhere.mine cannot be imported here", "No module named 'nowhere'", "all nodes"]),
        ("my_package.mine:Sure", ["my_package.mine has no class Sure"]),
        ("my_package.mine:number", ["has no class number"]),
        ("my_package.mine:Stranger", ["is not a strategy", "s3ray.strategies.base.Strategy"]),
        (
            "my_package.mine:Hollow",
            ["`seed_settings` is missing", "`num_rows` is missing", "`example_stages` is missing"],
        ),
        (
            "my_package.mine:Wrong",
            [
                "`last_round` must be a property",
                "`num_rows` cannot be called",
                "`training` must be a method",
                "built from",
            ],
        ),
    ],
)
def test_a_strategy_that_cannot_work_is_refused(install: Install, name: str, says: list[str]) -> None:
    install(HOLLOW)
    text = refused(lambda: check_strategy(StrategyConfig(name=name), TASK, "completion"), "strategy.name")
    assert [part for part in [name, *says] if part not in text] == []


def test_a_module_that_fails_is_told_with_its_own_words(install: Install) -> None:
    install("1 / 0")
    text = refused(lambda: make_strategy(StrategyConfig(name="my_package.mine:Surest")), "strategy.name")
    assert "ZeroDivisionError: division by zero" in text


def test_an_engine_says_what_it_needs(install: Install) -> None:
    install(ENGINES_OF_OURS)
    config = job(generator={"engine": "my_package.mine:Slow", "engines": 2})
    assert (config.generator.needs_devices, config.generator.loads_model) == (True, False)
    engine = make_engine(EngineSpec(engine="engine-0", config=config.generator, device="cpu"))
    assert type(engine).__name__ == "Slow"
    assert {
        each.device for each in plan_placement(config, [NodeFacts(node_id="a", num_cpus=4, num_gpus=0)]).engines
    } == {"cpu"}
    with pytest.raises(InputError, match="every engine needs a core of its own"):
        plan_placement(config, [NodeFacts(node_id="a", num_cpus=1, num_gpus=0)])


@pytest.mark.parametrize("name", ENGINES)
def test_builtin_engines_are_known_without_their_imports(name: str) -> None:
    config, found = GeneratorConfig(engine=name), engine_class(name)
    assert (config.needs_devices, config.loads_model) == (found.needs_devices, found.loads_model)


def test_an_engine_that_cannot_work_is_refused(install: Install) -> None:
    install(ENGINES_OF_OURS)
    text = refused(lambda: engine_class("my_package.mine:Empty"), "generator.engine")
    missing = ["`needs_devices` is not set", "`choose` is missing", "`close` is missing", "built from (spec: "]
    missing += [
        "`generate` cannot be called with",
        "`generate` must be `async def`",
        "s3ray.generator.engines.base.Engine",
    ]
    assert [part for part in missing if part not in text] == []
    assert "`start`" not in text


def test_a_node_that_lacks_the_package_says_so_when_its_engine_starts() -> None:
    config = GeneratorConfig(engine="nowhere.mine:Engine")
    spec = EngineSpec(engine="engine-0", config=config.model_copy(update={"max_num_seqs": 2}), device="gpu")
    host = EngineHost(spec, {"": ServedTask(task=TASK, clean=True)}, run="test")

    async def scenario() -> None:
        with pytest.raises(InputError, match=r"nowhere\.mine cannot be imported here"):
            await host.start()
        await host.close()

    asyncio.run(scenario())


def test_a_class_is_named_by_its_import_path() -> None:
    config = job(strategy={"name": AtHome}, generator={"engine": engine_class("fake")})
    assert config.strategy.name == f"{__name__}:AtHome"
    assert config.generator.engine == "s3ray.generator.engines.fake:FakeEngine"
    assert isinstance(make_strategy(config.strategy), AtHome)


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_a_class_that_others_cannot_import_is_refused(module: str) -> None:
    class Mine(S3):
        pass

    Mine.__module__ = module
    says = "put it into a module of its own" if module == "__main__" else "move it to the top level"
    with pytest.raises(ValueError, match=says):
        job(strategy={"name": Mine})


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"strategy": {"name": "s4"}},
            "'gold', 'zerogen', 'goldgen', 'progen', 's3', 'transfer', 'llm2llm' or 's3plus', or",
        ),
        (
            {"generator": {"engine": "sglang"}},
            "Input should be 'vllm', 'openai' or 'fake', or the import path of a class",
        ),
        ({"generator": {"engine": "my package:Engine"}}, "import path of a class such as my_package.mine:"),
        ({"generator": {"engine": 3}}, "import path"),
    ],
)
def test_a_wrong_name_is_told_what_there_is(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        job(**sections)
