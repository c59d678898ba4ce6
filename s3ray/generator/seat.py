"""One seat of the pool: a placement group, the engine's actor in it, and the call that is under way.

Knows Ray's calls and nothing of requests; the pool decides.
"""

import uuid
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s3ray.config import GeneratorConfig
from s3ray.errors import InputError, PoolError
from s3ray.generator.actor import GeneratorActor
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.plan import Bundle, EnginePlacement
from s3ray.generator.recipe import Recipe

_NODE_DIED = "its node has died"  # Ray has no class of its own for it
_ONE_BYTE = {"memory": 1}  # a placement group must reserve something


class SeatState(Enum):
    """Where an engine is in its life."""

    WAITING = "waiting"  # for its back-off to end, or for a node with room
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"  # holds its place, but not the memory of its GPU
    GIVEN_UP = "given up"


class Seat:
    """The engine's name stays for the whole run; placement, group, actor and call come and go with its lives."""

    def __init__(self, engine: str, number: int, placement: EnginePlacement | None) -> None:
        """``placement`` is the planned one; None where no node has room yet."""
        self.engine = engine
        self.number = number
        self.placement = placement
        self.state = SeatState.WAITING
        self.not_before = 0.0
        self.call: Any = None
        self.called = 0.0
        self.progress_at = 0.0
        self.progress: object = None
        self.is_homeless = False
        self.unreachable_since = 0.0
        self.has_gap = False
        self.is_waking = False
        self.is_timed = False
        self.num_restarts = 0
        self.problem = ""
        self._actor: Any = None
        self._group: PlacementGroup | None = None

    @property
    def nodes(self) -> set[str]:
        """The nodes that the engine is placed on."""
        return set(self.placement.node_ids) if self.placement else set()

    def launch(self, config: GeneratorConfig, recipes: Mapping[str, Recipe], *, run: str, now: float) -> None:
        """Reserve the place and start the engine there; its resolved limits answer the call."""
        assert self.placement is not None, "a seat is launched where it is placed"
        placement = self.placement
        spec = EngineSpec(
            engine=self.engine,
            number=self.number,
            config=config,
            device=placement.device,
            executor=placement.executor,
            memory_share=placement.memory_share,
            can_sleep=placement.can_sleep,
            timed=self.is_timed,
        )
        self._group = _reserve(placement, f"s3ray {run} {self.engine}")
        remote = ray.remote(GeneratorActor).options(**_options(placement, self._group))
        shares = {"share": placement.share, "num_shares": placement.num_shares}
        self._actor = remote.remote(spec, recipes, run=run, **shares)
        self.state = SeatState.STARTING
        self._call(self._actor.start.remote(), now)

    def exchange(self, epoch: int, packed: bytes, cancel: list[int], now: float) -> None:
        """Hand requests over and ask for what is finished."""
        self._call(self._actor.exchange.remote(epoch, packed, cancel), now)

    def abort(self, epoch: int) -> None:
        """Make the engine give up everything of an epoch; the answer of the call under way is not wanted."""
        self.call = None
        self._actor.abort.remote(epoch)

    def begin_sleep(self, level: int) -> Any:
        """Ask the engine to free its GPU's memory; returns the call to wait for."""
        self.call = None
        return self._actor.sleep.remote(level)

    def wake(self, now: float) -> None:
        """Let the engine take its GPU's memory back; its limits answer the call, as they do at a start."""
        self.state, self.is_waking = SeatState.STARTING, True
        self._call(self._actor.wake.remote(), now)

    def begin_close(self) -> Any:
        """Ask the engine to stop; returns the call to wait for."""
        return self._actor.close.remote()

    def remove(self) -> None:
        """End the actor and give its place back."""
        if self._actor is not None:
            ray.kill(self._actor)
        if self._group is not None:
            remove_placement_group(self._group)
        self._actor = self._group = self.call = None
        self.unreachable_since, self.has_gap, self.is_waking = 0.0, False, False
        self.state = SeatState.WAITING

    def _call(self, call: Any, now: float) -> None:
        self.call = call
        self.called = now


class Ending(NamedTuple):
    """Why a call to an engine came to nothing.

    ``may_live``: only the line may be broken. ``is_blamed``: the engine or a request may have done it. ``is_final``: it
    will be the same at every start.
    """

    problem: str
    may_live: bool
    is_blamed: bool
    is_final: bool


def why_lost(error: ray.exceptions.RayError) -> Ending:
    """Read Ray's error."""
    is_task = isinstance(error, ray.exceptions.RayTaskError)
    cause = (error.cause or error) if is_task else error
    is_outside = getattr(error, "preempted", False) or _NODE_DIED in str(error)
    return Ending(
        problem=_first_line(cause),
        may_live=isinstance(error, ray.exceptions.ActorUnavailableError),
        is_blamed=is_task or not is_outside,
        is_final=isinstance(cause, InputError),  # what is wrong with the input is wrong for every later start too
    )


def no_engine_left(seats: Sequence[Seat], since: str = "") -> PoolError:
    """What to raise when nobody can work, with each engine's problem."""
    problems = "; ".join(f"{seat.engine}: {seat.problem}" for seat in seats)
    return PoolError(
        f"no engine is left{since} ({problems})",
        "Ray keeps what engines print in session_latest/logs of its temporary folder (/tmp/ray).",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _reserve(placement: EnginePlacement, holder: str) -> PlacementGroup:
    """One group per engine, each bundle on the node that the plan chose; its name says who holds the devices."""
    return placement_group(
        [_resources(bundle) or _ONE_BYTE for bundle in placement.bundles],
        strategy="PACK",
        name=f"{holder} {uuid.uuid4().hex[:8]}",  # Ray takes a name once, and the last group may not be gone yet
        bundle_label_selector=[{"ray.io/node-id": bundle.node_id} for bundle in placement.bundles],
    )


def _resources(bundle: Bundle) -> dict[str, float]:
    wanted = {"CPU": bundle.num_cpus, "GPU": bundle.num_gpus}
    return {name: num for name, num in wanted.items() if num}


def _options(placement: EnginePlacement, group: PlacementGroup) -> dict[str, Any]:
    first = placement.bundles[0]
    # With vLLM's ray executor the workers take the GPUs of the group; the actor itself takes none.
    spans_nodes = placement.executor == "ray"
    num_gpus = 0 if spans_nodes else first.num_gpus
    options: dict[str, Any] = {
        "num_cpus": first.num_cpus,
        "num_gpus": num_gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=spans_nodes
        ),
    }
    if placement.device != "gpu":
        # Ray leaves the GPUs visible to actors that reserve none.
        options["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    return options
