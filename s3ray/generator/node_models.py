"""Brings a model of the hub to nodes before engines start there, so that fetching it is not part of their start."""

import time
from collections.abc import Collection

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s3ray.errors import InputError, RunError
from s3ray.hub import FETCH_LIMIT_S
from s3ray.models import is_of_hub, resolve_model
from s3ray.text import duration

TRY_AGAIN_S = 60.0
"""How long after it failed a node fetches again, while others have the model."""
_FIELD = "generator.model"


class NodeModels:
    """Which nodes have the weights of a model; each fetches them once, in a task that takes no devices.

    Models that are no hub's are wherever the job says, so every node has them.
    """

    def __init__(self, model: str) -> None:
        """``model`` as the job names it; empty if engines load none."""
        self._model = model if model and is_of_hub(model) else ""
        self._folders: dict[str, str] = {}
        self._calls: dict[ray.ObjectRef, tuple[str, float]] = {}
        self._failed: dict[str, tuple[InputError | RunError, float]] = {}

    def are_on(self, nodes: Collection[str]) -> bool:
        """Whether all of these nodes have the model; those that lack it begin to fetch it.

        Raises:
            InputError: no node could fetch it, and none is at it; or nodes of one engine have it in different places.
            RunError: likewise, where a node waited too long.
        """
        if not self._model:
            return True
        self._take_in()
        failed = next((error for error, _ in self._failed.values()), None)
        if failed is not None and not self._folders and not self._calls:
            raise failed
        at_work = {node for node, _ in self._calls.values()}
        for node in set(nodes) - set(self._folders) - at_work - set(self._failed):
            self._begin(node)
        folders = {node: self._folders[node] for node in nodes if node in self._folders}
        if len(set(folders.values())) > 1:
            raise _apart(folders)
        return len(folders) == len(nodes)

    def problem(self, nodes: Collection[str]) -> str:
        """Why one of these nodes could not fetch the model; empty if they have it, or are at it."""
        found = next((self._failed[node][0] for node in nodes if node in self._failed), None)
        return f"its node has no model: {found.problem}" if found is not None else ""

    def _begin(self, node: str) -> None:
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = ray.remote(_fetch).options(num_cpus=0, max_retries=1, scheduling_strategy=place)
        self._calls[task.remote(self._model)] = (node, time.monotonic())

    def _take_in(self) -> None:
        """Note what has ended, give up what takes too long, and forget failures that are to be tried again."""
        now = time.monotonic()
        self._failed = {node: (error, at) for node, (error, at) in self._failed.items() if now - at < TRY_AGAIN_S}
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if self._calls else ([], [])
        for call in done:
            node, _ = self._calls.pop(call)
            try:
                self._folders[node] = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, InputError | RunError) else RunError(str(error))
                self._failed[node] = (cause, now)
            except ray.exceptions.RayError:
                continue  # the node is gone, or its worker died: the next engine that is placed there asks again
        for call, (node, since) in list(self._calls.items()):
            if now - since > FETCH_LIMIT_S:
                ray.cancel(call, force=True)
                del self._calls[call]
                problem = f"node {node[:8]} did not fetch {self._model} in {duration(FETCH_LIMIT_S)}"
                self._failed[node] = (RunError(problem), now)


def _fetch(model: str) -> str:
    """Runs on the node: the folder of the model there."""
    return resolve_model(model, field=_FIELD)


def _apart(folders: dict[str, str]) -> InputError:
    places = "; ".join(f"{folder} on {node[:8]}" for node, folder in sorted(folders.items()))
    hint = "Set HF_HOME to the same folder on all nodes."
    return InputError(f"lies in different folders on the nodes of one engine: {places}", field=_FIELD, hint=hint)
