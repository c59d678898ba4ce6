"""Requests without a strategy, and a source that hands them to a pool."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from s3ray.tasks import Task, load_task
from s3ray.telemetry.events import Event
from s3ray.types import Example, GenerationRequest, Origin, Outcome, Source

if TYPE_CHECKING:
    from s3ray.generator.pool import GeneratorPool
    from s3ray.generator.shared_pool import Sharing

TASK: Task = load_task("review_sentences")


def make_request(index: int, parent: str | None = None) -> GenerationRequest:
    """A request for a positive review sentence, from scratch or like ``parent``."""
    origin = Origin(source=Source.GOLD)
    gold = None if parent is None else Example(id="gold", fields={"text": parent}, label="positive", origin=origin)
    stage = "seed" if gold is None else "extrapolate"
    return GenerationRequest(
        id=f"{stage}-{index}",
        index=index,
        stage=stage,
        round=0,
        template=stage,
        label="positive",
        attributes={name: values[0] for name, values in TASK.attributes.items()},
        parent=gold,
        group="g",
        seed=index,
    )


def make_pool(
    events: list[Event],
    *,
    clean: bool = True,
    student: dict[str, Any] | None = None,
    placement: dict[str, Any] | None = None,
    sharing: "Sharing | None" = None,
    nodes: Sequence[NodeFacts] | None = None,
    **generator: Any,
) -> "GeneratorPool":
    """A pool of fake engines (or what ``generator`` says) on the Ray that is joined; its events go into a list.

    It is planned for ``nodes`` (None: for all that there are).
    """
    from s3ray.cluster import node_facts
    from s3ray.generator.pool import GeneratorPool
    from s3ray.generator.worker import only_task

    settings = {"engine": "fake", "prompt_form": "completion", "max_num_seqs": 8, **generator}
    raw = {"name": "test", "task": TASK.name, "generator": settings, "curation": {"clean": clean}}
    raw |= {"student": student or {}, "placement": placement or {}}
    config = validate(RunConfig, raw)
    plan = plan_placement(config, node_facts() if nodes is None else nodes)
    tasks = only_task(config, TASK)
    return GeneratorPool(config, tasks, plan, emit=events.append, sharing=sharing)


class InsistentSource:
    """Hands out its requests in order and is finished when each of them was settled once."""

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._todo = list(requests)
        self._missing = {request.id for request in requests}

    is_waiting = False

    @property
    def finished(self) -> bool:
        return not self._missing

    def take(self, num: int) -> list[GenerationRequest]:
        taken, self._todo = self._todo[:num], self._todo[num:]
        return taken

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._missing.remove(outcome.request_id)
