"""Joining or starting a Ray cluster, and reading what its nodes have."""

import contextlib
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from textwrap import shorten
from typing import TypeVar

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s3ray.addresses import Named, check_address, is_cluster, starter_of
from s3ray.devices import local_facts
from s3ray.environment import bring_own_token, temporary_folder
from s3ray.errors import EngineStartError, InputError
from s3ray.placement.plan import NodeFacts, Occupancy

_FIELD = "cluster.address"
Found = TypeVar("Found")


@contextlib.contextmanager
def connected(address: str) -> Iterator[str]:
    """Join or start a cluster as ``cluster.address`` says; yields which one, in words.

    If this process has a Ray open already, that is used whatever the address, and stays open.

    Raises:
        InputError: no Ray cluster answers at the address.
    """
    with joined(address) as found:
        yield found or start_local()


@contextlib.contextmanager
def joined(address: str) -> Iterator[str | None]:
    """Join the cluster that ``cluster.address`` means; yields which one, in words, or None if there is none.

    Raises:
        InputError: the address, or RAY_ADDRESS, names a cluster and none answers there; or ``auto`` found one that
            another user started.
    """
    if ray.is_initialized():
        yield f"on the Ray cluster at {ray.get_runtime_context().gcs_address}"
        return
    try:
        yield _join(address)
    finally:
        ray.shutdown()  # of one that was started in the block, too


def _join(address: str) -> str | None:
    if address not in ("auto", "local"):
        return _init(Named(address=address, field=_FIELD))
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if address == "local" or named == "local":
        return None
    if named not in ("", "auto"):
        return _init(Named(address=named, where="RAY_ADDRESS"))
    found = _last_started()
    return _join_found(found) if found and is_cluster(found) else None


def _join_found(address: str) -> str:
    """Join the cluster that was found on this machine, if it is this user's; nobody has named it."""
    starter = starter_of(address)
    if starter is not None and starter.is_other:
        hint = (
            f"Name it if you may use it: --set {_FIELD}={address}. Or start a Ray for this run alone: "
            f"--set {_FIELD}=local."
        )
        problem = f"would join the Ray cluster at {address}, {starter}"
        raise InputError(problem, field=_FIELD, value="auto", hint=hint)
    whose = f", {starter}" if starter is not None else ""
    own = f"--set {_FIELD}=local starts one for this run alone"
    return f"{_init(Named(address=address, field=_FIELD))}{whose} and found here ({own})"


def _last_started() -> str | None:
    """Address of the cluster that ``ray start`` last started or joined on this machine.

    Ray has no public function for it: its own address="auto" also joins the private Ray of any other program here.
    """
    from ray._private.services import find_bootstrap_address

    try:
        address: str | None = find_bootstrap_address(None)
    except (OSError, ValueError):  # the file is not readable: another user's
        return None
    return address


def start_local() -> str:
    """Start a Ray on this machine for this process alone; returns words that say so.

    Raises:
        InputError: it cannot be started here; names the variable that is to blame.
    """
    [machine] = local_facts()
    folder, note = temporary_folder()
    bring_own_token()
    try:
        with _own_signals():
            ray.init(
                address="local",
                num_cpus=machine.num_cpus,
                num_gpus=machine.num_gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=folder,
                _system_config={"prestart_worker_first_driver": False},  # no process here has the environment of those
            )
    except Exception as error:  # Ray raises whatever the machine raises
        raise InputError(
            f"Ray cannot be started on this machine: {_words(error)}",
            field=_FIELD,
            value="local",
            hint=f"Its files go to {folder}, the sockets too: it needs room and the right to write there (TMPDIR names "
            "another place), and a network address of this machine (RAY_OVERRIDE_NODE_IP_ADDRESS=127.0.0.1 names one).",
        ) from error
    return f"on a Ray cluster started on this machine{note}"


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's answer to SIGTERM, which Ray takes over; Ray's own prints a stack of C++ functions."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before):
        signal.signal(signal.SIGTERM, before)


def node_facts() -> list[NodeFacts]:
    """The living nodes of the joined cluster, in a stable order; none that is about to be taken away."""
    ends = ending_nodes()
    nodes = [
        NodeFacts(
            node_id=node["NodeID"],
            num_cpus=int(node["Resources"].get("CPU", 0)),
            num_gpus=int(node["Resources"].get("GPU", 0)),
            accelerator=node["Labels"].get("ray.io/accelerator-type", ""),
            memory_gib=node["Resources"].get("memory", 0.0) / 2**30,
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in ends
    ]
    return sorted(nodes, key=lambda node: node.node_id)


def ending_nodes() -> dict[str, float]:
    """When nodes of the joined cluster will be taken away (seconds since 1970; infinite: not said), by node id.

    Clouds announce that they take a spot machine back, Kubernetes that a pod is evicted, and Ray's autoscaler that a
    node has been idle for too long. Ray Train, too, reads the announcements here: Ray has no public function for them.
    """
    deadlines: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return {node_id: ms / 1000 if ms else math.inf for node_id, ms in deadlines.items()}


def own_gpus() -> tuple[str, ...]:
    """The ids of the GPUs on this node that Ray gave to this process; those that share a GPU name the same."""
    return tuple(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def occupancy(resource: str) -> Occupancy:
    """How much of ``resource`` (GPU, CPU) is free in the joined cluster, and which placement groups hold the rest."""
    held: Counter[str] = Counter()
    for group in placement_group_table().values():
        if group["state"] in ("CREATED", "PREPARED"):
            num = sum(bundle.get(resource, 0.0) for bundle in group["bundles"].values())
            held[group["name"] or f"placement group {group['placement_group_id'][:8]}"] += num
    total, free = ray.cluster_resources().get(resource, 0.0), ray.available_resources().get(resource, 0.0)
    return Occupancy(
        resource=resource, total=total, free=free, by_group={name: num for name, num in held.items() if num}
    )


def head_address() -> str:
    """The address of the cluster that this process belongs to."""
    return str(ray.get_runtime_context().gcs_address)


def on_each_bundle(look: Callable[[], Found], num: int, limit_s: float) -> list[Found]:
    """Call ``look`` in a Ray task on each of ``num`` bundles, of one GPU each, of this actor's placement group.

    Raises:
        EngineStartError: a task failed, or they took longer than ``limit_s``.
    """

    def looked() -> Found:  # Ray takes functions, but not every callable
        return look()

    group = ray.util.get_current_placement_group()
    task = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(looked)
    places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number) for number in range(num)]
    try:
        found: list[Found] = ray.get(
            [task.options(scheduling_strategy=place).remote() for place in places], timeout=limit_s
        )
    except ray.exceptions.RayError as error:
        problem = f"its GPUs could not be looked at in {limit_s:.0f} s: {type(error).__name__}: {error}"
        raise EngineStartError(problem) from error
    return found


def remove_groups(*, memory: int) -> None:
    """Remove the placement groups in which every bundle reserves exactly ``memory`` bytes."""
    for group in placement_group_table().values():
        bundles = group["bundles"].values()
        if group["state"] != "REMOVED" and all(bundle.get("memory") == memory for bundle in bundles):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group["placement_group_id"])))


def _init(named: Named) -> str:
    """Join a cluster.

    Raises:
        InputError: none answers there, or it does not take this process.
    """
    check_address(named)
    try:
        GcsClient(address=named.address)  # fails at once at another of Ray's ports; ray.init tries it for 20 s
        with _own_signals():
            context = ray.init(address=named.address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises whatever goes wrong on the way
        hint = (
            "Is it the cluster's own port (6379, as `ray start --head` prints it)? A cluster that asks for a token "
            "wants it in ~/.ray/auth_token or RAY_AUTH_TOKEN; Ray and Python must be of one version there and here."
        )
        raise named.refused(f"the Ray cluster cannot be joined: {_words(error)}", hint) from error
    return f"on the Ray cluster at {context.address_info['gcs_address']}"


def _words(error: Exception) -> str:
    """What Ray said, in one line."""
    return shorten(str(error) or type(error).__name__, width=500)
