"""Who gets the devices of a campaign: none is promised twice, and nobody starves."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.campaign import simulate
from benchmarks.campaign_simulation import CampaignSimulation, RunShape
from s3ray.campaign.shares import Demand, Devices, Shares


def gpus(num_devices: int = 8, per_engine: float = 1, min_workers: int = 1, max_workers: int = 4) -> Devices:
    return Devices(
        num_devices=num_devices,
        per_engine=per_engine,
        per_worker=1,
        num_engines=int(num_devices / per_engine),
        min_workers=min_workers,
        max_workers=max_workers,
        is_split=False,
    )


def demand(num_stages: int = 0, num_waiting: int = 0, num_training: int = 0, num_workers: int = 0) -> Demand:
    return Demand(num_stages=num_stages, num_waiting=num_waiting, num_training=num_training, num_workers=num_workers)


def test_engines_have_all_devices_while_nobody_trains() -> None:
    assert Shares(gpus()).num_engines(demand(num_stages=3)) == 8


def test_engines_make_room_for_a_student_and_it_waits_until_they_have_left() -> None:
    shares = Shares(gpus(min_workers=2))
    waiting = demand(num_stages=3, num_waiting=1)
    assert shares.num_engines(waiting) == 6
    assert shares.num_workers(waiting, num_engines=8, part=1.0) == 0
    assert shares.num_workers(waiting, num_engines=6, part=1.0) == 2


def test_engines_keep_the_part_that_generation_has_cost() -> None:
    shares = Shares(gpus())
    shares.learn("generate", 300.0, 1)
    shares.learn("train", 100.0, 1)
    assert shares.num_engines(demand(num_stages=3, num_waiting=8)) == 6


def test_one_student_trains_however_much_there_is_to_generate() -> None:
    shares = Shares(gpus(num_devices=4, per_engine=4))
    shares.learn("generate", 1e6, 1)
    shares.learn("train", 1.0, 1)
    assert shares.num_engines(demand(num_stages=3, num_waiting=1)) == 0
    assert shares.num_workers(demand(num_stages=3, num_waiting=1), num_engines=0, part=1.0) == 4


def test_with_nothing_to_generate_students_share_all_devices_by_their_work() -> None:
    shares = Shares(gpus(max_workers=8))
    assert shares.num_engines(demand(num_waiting=2)) == 0
    assert shares.num_workers(demand(num_waiting=2), num_engines=0, part=0.75) == 6
    assert shares.num_workers(demand(num_waiting=1, num_training=1, num_workers=6), num_engines=0, part=1.0) == 2


def test_split_leaves_each_side_its_own() -> None:
    split = Devices(
        num_devices=0,
        per_engine=1,
        per_worker=0,
        num_engines=2,
        min_workers=1,
        max_workers=2,
        is_split=True,
        num_trainings=1,
    )
    shares = Shares(split)
    assert shares.num_engines(demand(num_waiting=5)) == 2
    assert shares.num_workers(demand(num_waiting=5), num_engines=2, part=0.2) == 2
    assert shares.num_workers(demand(num_waiting=4, num_training=1, num_workers=2), num_engines=2, part=0.2) == 0


@given(
    num_engines=st.integers(0, 8),
    num_workers=st.integers(0, 8),
    num_waiting=st.integers(0, 9),
    num_stages=st.integers(0, 3),
    part=st.floats(0.01, 1.0),
    costs=st.lists(st.floats(1.0, 1e5), min_size=2, max_size=2),
)
def test_no_device_is_promised_twice_and_there_is_always_a_way_on(
    num_engines: int, num_workers: int, num_waiting: int, num_stages: int, part: float, costs: list[float]
) -> None:
    num_engines = min(num_engines, 8 - num_workers)
    shares = Shares(gpus(min_workers=2))
    for phase, cost in zip(("generate", "train"), costs, strict=True):
        shares.learn(phase, cost, 1)
    now = demand(num_stages=num_stages, num_waiting=num_waiting, num_training=num_workers // 2, num_workers=num_workers)
    granted = shares.num_workers(now, num_engines, part) if num_waiting else 0
    assert granted == 0 or (2 <= granted <= 4 and num_workers + num_engines + granted <= 8)
    allowed = shares.num_engines(now)
    assert 0 <= allowed <= 8 - num_workers
    if num_waiting and not num_workers:
        assert shares.num_workers(now, min(num_engines, allowed), part), "nobody trains and nobody will"


def test_a_simulated_campaign_ends_with_its_devices_busy() -> None:
    shapes = [RunShape(generate_s=[600.0, 200.0], train_s=[60.0, 80.0]) for _ in range(12)]
    result = CampaignSimulation(shapes, gpus()).run()
    assert result.spent_s["generating"] > 12 * 800.0 - 12
    assert (result.spent_s["generating"] + result.spent_s["training"]) / 8 / result.makespan_s > 0.85


def test_48_runs_keep_64_devices_busy() -> None:
    assert simulate(300)["busy_share"] > 0.95
