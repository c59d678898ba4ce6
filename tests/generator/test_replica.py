"""What a replica does by itself, without Ray: when it is due, held back, stalled, and what a life leaves behind."""

import pytest
import ray

from s3ray.errors import DeviceMemoryError, EngineStartError, InputError, PoolError
from s3ray.generator.replica import (
    CallFailure,
    Replica,
    ReplicaState,
    Supervisor,
    failure_of,
    no_engine_left,
    nodes_like,
)
from s3ray.placement.plan import NodeFacts


@pytest.fixture
def replica() -> Replica:
    return Replica("engine-0", 0, None)


def test_it_is_due_when_its_back_off_is_over(replica: Replica) -> None:
    assert replica.is_due(0.0)
    replica.die("its process ended")
    replica.retry(5.0)
    assert (replica.is_due(4.9), replica.is_due(5.0)) == (False, True)
    assert (replica.num_restarts, replica.problem) == (1, "its process ended")


def test_that_no_node_has_room_is_news_once(replica: Replica) -> None:
    assert replica.wait_for_room(3.0, "no room")
    assert not replica.wait_for_room(6.0, "no room")
    assert (replica.is_due(5.9), replica.is_due(6.0)) == (False, True)
    assert str(no_engine_left([replica])).startswith("no engine is left (engine-0: no room)")


def test_after_a_broken_line_it_gets_nothing_new_until_it_holds_nothing(replica: Replica) -> None:
    assert replica.note_unreachable(10.0) == 0.0
    assert replica.note_unreachable(12.5) == 2.5
    assert replica.is_held_back
    replica.note_answer("moved", 13.0, has_rows=False)
    assert replica.is_held_back, "what fell into the gap is still missing"
    replica.close_gap()
    assert not replica.is_held_back
    assert replica.note_unreachable(20.0) == 0.0, "an answer ends the silence"


def test_a_draining_one_stays_held_back_until_its_life_ends(replica: Replica) -> None:
    replica.drain()
    replica.close_gap()
    assert replica.is_held_back
    replica.remove()
    assert not replica.is_draining
    assert not replica.is_held_back


def test_it_stalls_while_neither_rows_nor_progress_come(replica: Replica) -> None:
    replica.become_ready(0.0)
    replica.note_answer((0, 0), 1.0, has_rows=False)
    replica.note_answer((0, 0), 5.0, has_rows=False)
    assert replica.stalled_s(5.0) == 4.0
    replica.note_answer((0, 0), 6.0, has_rows=True)
    assert replica.stalled_s(7.0) == 1.0
    replica.note_answer((9, 0), 8.0, has_rows=False)
    assert replica.stalled_s(8.5) == 0.5
    replica.note_idle(20.0)
    assert replica.stalled_s(20.0) == 0.0


def test_only_a_life_holds_a_place(replica: Replica) -> None:
    seen = [replica.holds_place]
    replica.become_ready(0.0)
    seen.append(replica.holds_place)
    replica.fall_asleep()
    seen.append(replica.holds_place)
    replica.die("gone")
    seen.append(replica.holds_place)
    replica.give_up()
    seen.append(replica.holds_place)
    assert seen == [False, True, True, False, False]
    assert replica.state is ReplicaState.GIVEN_UP
    assert not replica.is_due(1e9)


def test_what_no_engine_can_do_for_a_job_is_said_as_the_job_s_fault() -> None:
    one, other = Replica("engine-0", 0, None), Replica("engine-1", 1, None)
    refusal = InputError("does not take the key", field="generator.endpoints.0.key_env", hint="Export it.")
    one.give_up(refusal)
    other.give_up()
    assert isinstance(no_engine_left([one, other]), PoolError), "the other might have done it"
    other.give_up(refusal)
    assert no_engine_left([one, other]) is refusal


def failed(cause: Exception) -> CallFailure:
    return failure_of(ray.exceptions.RayTaskError("start", "Traceback ...", cause))


def test_a_cause_that_is_the_same_each_time_is_a_refusal_and_nobody_s_fault() -> None:
    cause = EngineStartError("the engine did not start: no nvcc", "Install it.", is_final=True)
    assert failed(cause) == CallFailure(problem="the engine did not start: no nvcc", is_blamed=False, refusal=cause)


def test_a_cause_that_may_pass_counts_against_the_engine() -> None:
    cause = EngineStartError("the engine did not start: RuntimeError: NCCL timed out", "See the log.")
    assert failed(cause) == CallFailure(problem=cause.problem)


def test_memory_that_is_late_counts_against_nobody_and_not_for_ever() -> None:
    failure = failed(DeviceMemoryError("engine-0 needs 30 GiB", "End the other."))
    assert failure == CallFailure(problem="engine-0 needs 30 GiB", is_blamed=False, is_late=True)
    supervisor = Supervisor(max_restarts=2)
    assert [supervisor.late("engine-0", now) for now in (0.0, 130.0, 260.0, 4000.0)] == [0.0, 130.0, None, 4000.0]
    assert not supervisor.unreliable_nodes(260.0)
    assert supervisor.died("engine-0", "node", 260.0, is_blamed=True) == 260.0, "its restarts are all left"


def test_what_fails_on_one_kind_of_node_says_nothing_about_another() -> None:
    kinds = {"a": ("H100", 8), "b": ("A10G", 4), "c": ("H100", 1), "d": ("", 0), "e": ("", 0)}
    nodes = [NodeFacts(node_id=name, num_cpus=8, num_gpus=num, accelerator=kind) for name, (kind, num) in kinds.items()]
    assert nodes_like({"a"}, nodes) == {"a", "c"}
    assert nodes_like({"d"}, nodes) == {"d", "e"}
    assert nodes_like({"a", "b"}, nodes) == {"a", "b", "c"}
