"""Joining or starting a Ray cluster, and reading what its nodes have."""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from s3ray.devices import local_facts
from s3ray.errors import InputError
from s3ray.placement.plan import NodeFacts, Occupancy

_CONNECT_S = 5.0


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
        InputError: the address names a cluster and none answers there.
    """
    if ray.is_initialized():
        yield f"on the Ray cluster at {ray.get_runtime_context().gcs_address}"
        return
    try:
        yield _join(address)
    finally:
        ray.shutdown()  # of one that was started in the block, too


def _join(address: str) -> str | None:
    if address == "local":
        return None
    if address != "auto":
        _require_listener(address)
        return _init(address)
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return _init(named)
    found = _last_started()
    return _init(found) if found and _listens(found) else None


def _last_started() -> str | None:
    """Address of the cluster that ``ray start`` last started or joined on this machine.

    Ray has no public function for it: its own address="auto" also joins the private Ray of any other program here.
    """
    from ray._private.services import find_bootstrap_address

    address: str | None = find_bootstrap_address(None)
    return address


def start_local() -> str:
    """Start a Ray on this machine for this process alone; returns words that say so."""
    [machine] = local_facts()
    ray.init(
        address="local",
        num_cpus=machine.num_cpus,
        num_gpus=machine.num_gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    return "on a Ray cluster started on this machine"


def node_facts() -> list[NodeFacts]:
    """The living nodes of the joined cluster, in a stable order."""
    nodes = [
        NodeFacts(
            node_id=node["NodeID"],
            num_cpus=int(node["Resources"].get("CPU", 0)),
            num_gpus=int(node["Resources"].get("GPU", 0)),
            accelerator=node["Labels"].get("ray.io/accelerator-type", ""),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: node.node_id)


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


def remove_groups(*, memory: int) -> None:
    """Remove the placement groups in which every bundle reserves exactly ``memory`` bytes."""
    for group in placement_group_table().values():
        bundles = group["bundles"].values()
        if group["state"] != "REMOVED" and all(bundle.get("memory") == memory for bundle in bundles):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group["placement_group_id"])))


def _init(address: str) -> str:
    try:
        context = ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = (
            "Start one with `ray start --head`, or set cluster.address to local. A cluster that asks for a token wants "
            "it in ~/.ray/auth_token or RAY_AUTH_TOKEN."
        )
        raise InputError(
            f"no Ray cluster answers there: {str(error).splitlines()[0]}",
            field="cluster.address",
            value=address,
            hint=hint,
        ) from error
    return f"on the Ray cluster at {context.address_info['gcs_address']}"


def _require_listener(address: str) -> None:
    """Raise at once if nothing listens at an address; Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        hint = "Write HOST:PORT (6379 is the port of `ray start --head`), auto, or local."
        raise InputError("is not an address", field="cluster.address", value=address, hint=hint)
    if not _listens(address):
        raise InputError(
            "nothing listens there",
            field="cluster.address",
            value=address,
            hint="Check host and port; `ray start --head` prints them.",
        )


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
