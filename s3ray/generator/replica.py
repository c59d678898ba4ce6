"""One replica of the engine: a placement group, the actor in it, and the call that is under way.

This module makes Ray's calls; the pool decides which. It knows nothing of requests.
"""

import contextlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s3ray.config.job import GeneratorConfig
from s3ray.errors import DeviceMemoryError, EngineStartError, InputError, PoolError
from s3ray.generator.actor import GeneratorActor
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.scheduling.room import Holder
from s3ray.generator.worker import ServedTask
from s3ray.placement.plan import Bundle, EnginePlacement, NodeFacts

_NODE_DIED = "its node has died"  # Ray has no error class for this
_ONE_BYTE = {"memory": 1}  # a placement group must reserve something
_STOP_S = 20.0
_WINDOW_S = 3600.0  # older deaths say little about the engine or node of today
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 60.0
_DEATHS_PER_NODE = 2

Refusal = InputError | EngineStartError
"""Why every later start of an engine would fail in the same way."""


class ReplicaState(Enum):
    """Where a replica is in its life."""

    WAITING = "waiting"  # for its back-off to end, or for a node with room
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"  # holds its place, but not the memory of its GPU
    GIVEN_UP = "given up"


class Replica:
    """``engine``, its name, stays for the whole run; placement, group, actor and call change with each start.

    All times are on the caller's clock. Only methods set attributes: ``placement`` (None while no node has room),
    ``call`` (the Ray call under way), ``gpu`` (the one that it shares with others, once known), ``is_waking`` (it
    starts from sleep), ``is_draining`` (it finishes what it has and then leaves), ``num_restarts``, ``problem``
    (human-readable: why it does not work), and ``refusal`` (why it can never work, if it was given up for that).
    """

    def __init__(self, engine: str, number: int, placement: EnginePlacement | None, *, is_timed: bool = False) -> None:
        """``placement`` is the planned one, None where it has none yet. ``is_timed``: texts are timed."""
        self.engine = engine
        self._number = number
        self._is_timed = is_timed
        self.placement = placement
        self.state = ReplicaState.WAITING
        self._not_before = 0.0
        self._lacks_room = False
        self.num_restarts = 0
        self.problem = ""
        self.refusal: Refusal | None = None
        self._actor: Any = None
        self._group: PlacementGroup | None = None
        self.call: ray.ObjectRef | None = None
        self._gpus_call: ray.ObjectRef | None = None
        self._called = 0.0
        self._asked_at: float | None = None
        self._idle_since: float | None = None
        self._progress: object = None
        self._progress_at = 0.0
        self._forget_life()

    def _forget_life(self) -> None:
        self.gpu = ""
        self._gpus_call = None
        self._unreachable_since = 0.0
        self._has_gap = False
        self._idle_since = None
        self.is_waking = False
        self.is_draining = False

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def holder(self) -> Holder:
        """The device that it holds, for the arithmetic of room."""
        return Holder(
            engine=self.engine,
            node=self.placement.node_id if self.placement else "",
            gpu=self.gpu,
            is_ready=self.state is ReplicaState.READY,
            is_leaving=self.is_draining,
        )

    @property
    def holds_place(self) -> bool:
        """Whether it holds devices."""
        return self.state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.ASLEEP)

    @property
    def nodes(self) -> set[str]:
        """The nodes that it is placed on."""
        return set(self.placement.node_ids) if self.placement else set()

    @property
    def is_held_back(self) -> bool:
        """Whether it gets no new requests: it drains, or some may have been lost when its connection broke."""
        return self.is_draining or self._has_gap

    def is_due(self, now: float) -> bool:
        """Whether it may start as soon as it has a place."""
        return self.state is ReplicaState.WAITING and self._not_before <= now

    @property
    def is_asking(self) -> bool:
        """Whether it has asked the cluster for its devices, and has not started on them yet."""
        return self.state is ReplicaState.WAITING and self._group is not None

    def asked_s(self, now: float) -> float:
        """Seconds since it asked the cluster for the devices that it waits for or has."""
        assert self._asked_at is not None, "it has asked"
        return now - self._asked_at

    def idle_s(self, now: float) -> float:
        """Seconds in which it has had nothing to do."""
        return 0.0 if self._idle_since is None else now - self._idle_since

    def waited_s(self, now: float) -> float:
        """Seconds that the last call has been under way."""
        return now - self._called

    def stalled_s(self, now: float) -> float:
        """Seconds in which it has computed nothing although it had something to do."""
        return now - self._progress_at

    # -- place ---------------------------------------------------------------------------------------------------------

    def ask(
        self, wanted: EnginePlacement, run: str, accelerator: str | None, avoid: Collection[str], now: float
    ) -> None:
        """Ask the cluster for the devices of ``wanted`` on any node but those to ``avoid``.

        While no node has them free, the request waits, and the cluster's autoscaler starts a node for it.
        """
        selector = {"ray.io/accelerator-type": accelerator} if accelerator else {}
        if avoid:
            selector["ray.io/node-id"] = f"!in({', '.join(sorted(avoid))})"
        self._group = _reserve(wanted, f"s3ray {run} {self.engine}", selector)
        self._asked_at = now

    def granted_node(self) -> str:
        """The node where it has been given the devices that it asked for; empty as long as it waits for one."""
        table = placement_group_table(self._group)
        return str(table["bundles_to_node_id"][0]) if table["state"] == "CREATED" else ""

    def settle(self, placement: EnginePlacement) -> None:
        """A node has room for it."""
        self.placement, self._lacks_room = placement, False

    def wait_for_room(self, until: float, problem: str) -> bool:
        """No node has room: not due before ``until``. Returns whether there was room at the last look."""
        is_new = not self._lacks_room
        if is_new:
            self.problem = problem
        self.placement, self._lacks_room, self._not_before = None, True, until
        return is_new

    def look_again(self, at: float) -> None:
        """It may soon have devices: due again then."""
        self._not_before = at

    def wait_for_model(self, problem: str) -> bool:
        """Its node fetches the model; it keeps its place. Returns whether that was not so at the last look."""
        is_new = self.problem != problem
        self.problem = problem
        return is_new

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def launch(self, config: GeneratorConfig, tasks: Mapping[str, ServedTask], *, run: str, now: float) -> None:
        """Reserve the place and start the engine there; the call returns its resolved limits."""
        assert self.placement is not None, "a replica is launched where it is placed"
        placement = self.placement
        spec = EngineSpec(
            engine=self.engine,
            number=self._number,
            config=config,
            device=placement.device,
            executor=placement.executor,
            memory_share=placement.memory_share,
            can_sleep=placement.can_sleep,
            timed=self._is_timed,
            restarts=self.num_restarts,
        )
        self._group = self._group or _reserve(placement, f"s3ray {run} {self.engine}")
        remote = ray.remote(GeneratorActor).options(**_options(placement, self._group))
        shares = {"share": placement.share, "num_shares": placement.num_shares}
        self._actor = remote.remote(spec, tasks, run=run, **shares)
        self.state = ReplicaState.STARTING
        if 0 < placement.num_gpus < 1:
            self._gpus_call = self._actor.gpus.remote()  # first, for loading a model occupies the actor
        self._begin(self._actor.start.remote(), now)

    def learn_gpu(self) -> None:
        """Note the GPU that it shares with others, as soon as its process has said which."""
        if self._gpus_call is not None and ray.wait([self._gpus_call], timeout=0)[0]:
            call, self._gpus_call = self._gpus_call, None
            with contextlib.suppress(ray.exceptions.RayError):  # it died, which its start says, too
                self.gpu = ",".join(ray.get(call))

    def become_ready(self, now: float) -> None:
        """It has started, or is awake again."""
        self.state, self.problem, self.is_waking = ReplicaState.READY, "", False
        self._progress_at = now

    def begin_sleep(self, level: int) -> ray.ObjectRef:
        """Ask the engine to free its GPU's memory; returns the call to wait for."""
        self.call = None
        call: ray.ObjectRef = self._actor.sleep.remote(level)
        return call

    def fall_asleep(self) -> None:
        """Its GPU's memory is free."""
        self.state = ReplicaState.ASLEEP

    def wake(self, now: float) -> None:
        """Let the engine take its GPU's memory back; the call returns its limits, as that of a start does."""
        self.state, self.is_waking = ReplicaState.STARTING, True
        self._begin(self._actor.wake.remote(), now)

    def drain(self) -> None:
        """It gets nothing new, and is to leave once it has answered what it has."""
        self.is_draining = True

    def begin_close(self) -> ray.ObjectRef:
        """Ask the engine to stop; returns the call to wait for."""
        call: ray.ObjectRef = self._actor.close.remote()
        return call

    def remove(self) -> None:
        """End the actor and give its place back, or ask for none any more; it may start again at once."""
        if self._actor is not None:
            ray.kill(self._actor)
        if self._group is not None:
            remove_placement_group(self._group)
        if self._asked_at is not None:
            self.placement, self._lacks_room, self._not_before = None, False, 0.0  # next time it asks anew
        self._actor = self._group = self.call = self._asked_at = None
        self._forget_life()
        self.state = ReplicaState.WAITING

    def die(self, problem: str) -> None:
        """It is lost; the caller then decides between ``retry`` and ``give_up``."""
        self.remove()
        self.problem = problem

    def retry(self, not_before: float) -> None:
        """It starts again when ``not_before`` has come."""
        self.num_restarts += 1
        self._not_before = not_before

    def give_up(self, refusal: Refusal | None = None) -> None:
        """It never starts again, and needs no place; ``refusal`` says why it can never work."""
        self.state, self.placement, self.refusal = ReplicaState.GIVEN_UP, None, refusal

    # -- calls ---------------------------------------------------------------------------------------------------------

    def exchange(self, epoch: int, packed: bytes, cancel: list[int], now: float) -> None:
        """Hand requests over and ask for what is finished."""
        self._idle_since = None
        self._begin(self._actor.exchange.remote(epoch, packed, cancel), now)

    def abort(self, epoch: int) -> None:
        """Make the engine give up everything of an epoch; the answer of the call under way is not wanted."""
        self.call = None
        self._actor.abort.remote(epoch)

    def take_call(self) -> ray.ObjectRef | None:
        """The call under way, which the caller reads now; none is under way afterwards."""
        call, self.call = self.call, None
        return call

    def note_idle(self, now: float) -> None:
        """It has nothing to do, and so does not stall."""
        self._progress_at = now
        if self._idle_since is None:
            self._idle_since = now

    def note_answer(self, progress: object, now: float, *, has_rows: bool) -> None:
        """It answered. It makes progress if there are rows, or if ``progress`` differs from that of the last answer."""
        if has_rows or progress != self._progress:
            self._progress, self._progress_at = progress, now
        self._unreachable_since = 0.0

    def note_unreachable(self, now: float) -> float:
        """The connection broke, and requests or answers may be lost; returns how many seconds ago it first broke."""
        self._unreachable_since = self._unreachable_since or now
        self._has_gap = True
        return now - self._unreachable_since

    def close_gap(self) -> None:
        """It holds nothing, so nothing can be missing."""
        self._has_gap = False

    def _begin(self, call: ray.ObjectRef, now: float) -> None:
        self.call = call
        self._called = now


@dataclass(slots=True)
class Supervisor:
    """When an engine that died may start again, and which nodes engines should avoid.

    Each engine may start again ``max_restarts`` times within an hour, after longer and longer waits. A node on which
    engines died twice is avoided as long as another one has room.
    """

    max_restarts: int
    _by_engine: dict[str, list[float]] = field(default_factory=dict)
    _late: dict[str, list[float]] = field(default_factory=dict)
    _by_node: dict[str, list[float]] = field(default_factory=dict)

    def died(self, engine: str, node_id: str, now: float, *, is_blamed: bool) -> float | None:
        """When an engine may start again, on the caller's clock; None if it died too often.

        ``is_blamed`` is False where the cause lies outside (its node was lost or preempted): such a death counts
        neither against the engine nor against the node.
        """
        if not is_blamed:
            return now
        self._by_node.setdefault(node_id, []).append(now)
        deaths = _recent(self._by_engine.setdefault(engine, []), now)
        deaths.append(now)
        if len(deaths) > self.max_restarts:
            return None
        # The first restart is at once: most deaths are single ones.
        wait_s = 0.0 if len(deaths) == 1 else min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** (len(deaths) - 2))
        return now + wait_s

    def late(self, engine: str, now: float) -> float | None:
        """When an engine may try again whose GPU did not become free in time; None if that came too often.

        Neither engine nor node is blamed. Each try has waited long itself, so the next one may begin at once.
        """
        waits = _recent(self._late.setdefault(engine, []), now)
        waits.append(now)
        return now if len(waits) <= self.max_restarts else None

    def unreliable_nodes(self, now: float) -> Collection[str]:
        """The nodes on which engines died twice within the hour."""
        return {node for node, deaths in self._by_node.items() if len(_recent(deaths, now)) >= _DEATHS_PER_NODE}


def _recent(deaths: list[float], now: float) -> list[float]:
    """Drop, in place, the deaths that are older than the window."""
    deaths[:] = [died for died in deaths if died > now - _WINDOW_S]
    return deaths


class CallFailure(NamedTuple):
    """Why a call to an engine failed.

    ``may_live``: the engine may still be alive, with only the connection broken. ``is_blamed``: the engine or one of
    its requests may be the cause. ``is_late``: the GPU did not become free in time. ``refusal``: every later start
    would fail in the same way.
    """

    problem: str
    may_live: bool = False
    is_blamed: bool = True
    is_late: bool = False
    refusal: Refusal | None = None


def failure_of(error: ray.exceptions.RayError) -> CallFailure:
    """Read what Ray's error says about the engine."""
    is_task = isinstance(error, ray.exceptions.RayTaskError)
    cause = (error.cause or error) if is_task else error
    is_outside = getattr(error, "preempted", False) or _NODE_DIED in str(error)
    match cause:
        case EngineStartError(is_final=True) | InputError():
            return CallFailure(problem=_first_line(cause), is_blamed=False, refusal=cause)
        case DeviceMemoryError():
            return CallFailure(problem=_first_line(cause), is_blamed=False, is_late=True)
    return CallFailure(
        problem=_first_line(cause),
        may_live=isinstance(error, ray.exceptions.ActorUnavailableError),
        is_blamed=is_task or not is_outside,
    )


def nodes_like(some: Collection[str], nodes: Sequence[NodeFacts]) -> set[str]:
    """The ids of the nodes of the same kind as ``some``: with the same accelerator, or with no GPU like them."""
    kinds = {(node.accelerator, node.num_gpus > 0) for node in nodes if node.node_id in some}
    return {node.node_id for node in nodes if (node.accelerator, node.num_gpus > 0) in kinds}


def close_in_time(replicas: Sequence[Replica]) -> None:
    """Ask replicas to stop, all at once, and wait for 20 seconds at most; ``remove`` kills those that have not."""
    answers_in_time([replica.begin_close() for replica in replicas], _STOP_S)


def sleep_in_time(replicas: Sequence[Replica], level: int, limit_s: float) -> list[Replica]:
    """Put replicas to sleep; returns those that sleep. The others died, or took longer than ``limit_s`` seconds."""
    calls = {replica.begin_sleep(level): replica for replica in replicas}
    return [calls[call] for call in answers_in_time(list(calls), limit_s) if _is_good(call)]


def answers_in_time(calls: Sequence[ray.ObjectRef], limit_s: float) -> list[ray.ObjectRef]:
    """The calls that end within ``limit_s`` seconds, whether they succeed or fail."""
    done: list[ray.ObjectRef] = []
    if calls:
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=limit_s)
    return done


def _is_good(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except ray.exceptions.RayError:
        return False
    return True


def no_engine_left(replicas: Sequence[Replica], since: str = "") -> PoolError | Refusal:
    """The error when no engine can work, with the problem of each; why none ever can is said alone."""
    refusals = [replica.refusal for replica in replicas if replica.refusal is not None]
    if refusals and len(refusals) == len(replicas):
        return refusals[0]
    problems = "; ".join(f"{replica.engine}: {replica.problem}" for replica in replicas if replica.problem)
    return PoolError(
        f"no engine is left{since} ({problems})",
        "Ray keeps what engines print in session_latest/logs of its temporary folder (/tmp/ray).",
    )


def _first_line(error: BaseException) -> str:
    if isinstance(error, EngineStartError | DeviceMemoryError):
        return error.problem
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _reserve(placement: EnginePlacement, holder: str, selector: dict[str, str] | None = None) -> PlacementGroup:
    """One group per replica, whose name says who holds the devices.

    Each bundle is on the node that the plan chose; with a ``selector``, on one that has such labels.
    """
    nodes = [{"ray.io/node-id": bundle.node_id} if selector is None else selector for bundle in placement.bundles]
    return placement_group(
        [_resources(bundle) or _ONE_BYTE for bundle in placement.bundles],
        strategy="PACK",
        name=f"{holder} {uuid.uuid4().hex[:8]}",  # names are unique, and the group of the last start may still exist
        bundle_label_selector=nodes if selector != {} else None,
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
