"""docs/configuration.md is what the fields say of themselves, and what it says of them holds."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from s3ray.config.grid import CampaignConfig
from s3ray.config.job import EndpointConfig, RunConfig
from s3ray.config.shaping import data_shaping
from s3ray.tasks.spec import TaskSpec
from tests.docs.reference import PAGE, configuration


def _page() -> str:
    return PAGE.read_text(encoding="utf-8")


def _marks() -> dict[str, str]:
    """What each field of the job shapes, by its dotted name, as the page's tables say."""
    found: dict[str, str] = {}
    job = _page().partition("## The job")[2].partition("### Presets")[0]
    for part in re.split(r"^### ", job, flags=re.MULTILINE):
        place = part.partition("\n")[0].strip("`") if part.startswith("`") else ""
        for name, shapes in re.findall(r"^\| `(\w+)` \|.*?\|.*?\| *(data|execution|) *\|", part, re.MULTILINE):
            found[f"{place}.{name}".lstrip(".")] = shapes
    return found


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        place = f"{prefix}{name}"
        yield from _names(value, f"{place}.") if isinstance(value, dict) else [place]


def test_the_page_is_what_the_fields_say() -> None:
    assert _page() == configuration(), "`make docs` writes it afresh"


def test_what_shapes_the_data_is_what_is_fingerprinted() -> None:
    # What came after the first runs is left out where it is at its default.
    penalties = {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1}
    generator = {"thinking": "off", "adapter": "org/it", "sampling": {"top_k": 40, "min_p": 0.1, **penalties}}
    strategy, curation = {"ahead": 0.5}, {"search": "sketch"}
    job = {"name": "job", "task": "imdb", "strategy": strategy, "generator": generator, "curation": curation}
    config = RunConfig.model_validate(job)
    assert {name for name, shapes in _marks().items() if shapes == "data"} == set(_names(data_shaping(config)))


def test_every_field_of_every_file_is_there() -> None:
    def fields(model: type[BaseModel]) -> set[str]:
        return {name for name in model.model_fields if f"| `{name}` |" in _page()}

    for model in (RunConfig, CampaignConfig, TaskSpec, EndpointConfig):
        assert fields(model) == set(model.model_fields)
    dumped = RunConfig.model_validate({"name": "job", "task": "imdb"}).model_dump()
    assert set(_names(dumped)) <= set(_marks())
