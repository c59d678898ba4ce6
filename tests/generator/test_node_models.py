"""Nodes that fetch a model: one that cannot is left out for a while, and none that can ends the run with its words."""

import time

import pytest

from s3ray.errors import InputError
from s3ray.generator.node_models import TRY_AGAIN_S, NodeModels


class Nodes(NodeModels):
    """Nodes that have fetched, or failed to, at once; ``failing`` are those that fail."""

    def __init__(self, model: str = "org/model", folder: str = "/models") -> None:
        super().__init__(model)
        self._folder = folder
        self.failing: set[str] = set()
        self.begun: list[str] = []

    def _begin(self, node: str) -> None:
        self.begun.append(node)
        if node in self.failing:
            self._failed[node] = (InputError("does not fit on the disk of it"), time.monotonic())
        else:
            self._folders[node] = self._folder.replace("NODE", node)


def test_each_node_fetches_once() -> None:
    nodes = Nodes()
    assert all(nodes.are_on({node}) for node in ("a", "b", "a", "b"))
    assert nodes.are_on({"a", "b"})
    assert nodes.begun == ["a", "b"]


def test_a_model_of_no_hub_is_everywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    for model in ("", str(tmp_path_factory.mktemp("model"))):
        nodes = Nodes(model)
        assert nodes.are_on({"a"})
        assert nodes.begun == []


def test_a_node_that_cannot_fetch_is_tried_again_later_while_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes()
    nodes.failing = {"b"}
    assert nodes.are_on({"a"})
    assert [nodes.are_on({"b"}) for _ in range(3)] == [False] * 3
    assert "does not fit on the disk" in nodes.problem({"b"})
    assert nodes.problem({"a"}) == ""
    assert nodes.begun == ["a", "b"]
    nodes.failing = set()
    later = time.monotonic() + TRY_AGAIN_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert nodes.are_on({"b"})


def test_when_no_node_can_fetch_the_reason_ends_the_run() -> None:
    nodes = Nodes()
    nodes.failing = {"a", "b"}
    assert not nodes.are_on({"a"})
    with pytest.raises(InputError, match="does not fit on the disk"):
        nodes.are_on({"b"})


def test_nodes_of_one_engine_must_have_the_model_in_one_place() -> None:
    """A vLLM engine that spans nodes loads its weights by one path."""
    nodes = Nodes(folder="/NODE/models")
    assert nodes.are_on({"a"})
    assert nodes.are_on({"b"})
    with pytest.raises(InputError, match="different folders") as refused:
        nodes.are_on({"a", "b"})
    assert "HF_HOME" in refused.value.hint
    assert "/a/models on a; /b/models on b" in refused.value.problem
