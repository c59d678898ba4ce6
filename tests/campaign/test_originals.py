"""A seed set that runs have in common is written by one of them, whatever becomes of that one."""

import threading
from pathlib import Path

from s3ray.campaign.seeds import SeedSets, copy_round
from s3ray.store import RunStore


def finished(folder: Path) -> RunStore:
    store = RunStore(folder)
    store.write_text(store.in_round(0, "chunks/seed-000000.parquet"), "outcomes")
    store.write_text(store.in_round(0, "accepted.parquet"), "rows")
    store.write_json(store.in_round(0, "round.json"), {"round": 0, "rows": 60})
    return store


def test_the_second_run_waits_for_the_first_and_gets_its_folder(tmp_path: Path) -> None:
    seeds, first, second = SeedSets(), RunStore(tmp_path / "a"), RunStore(tmp_path / "b")
    found: list[RunStore | None] = []

    def ask() -> None:
        with seeds.claimed("key", second) as source:
            found.append(source)

    with seeds.claimed("key", first) as source:
        assert source is None
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.1)
        assert not found, "the second run did not wait"
        seeds.note("key", finished(tmp_path / "a"))
        thread.join(10)
    assert [store.folder for store in found if store] == [first.folder]


def test_a_run_that_fails_leaves_the_seed_set_to_the_next(tmp_path: Path) -> None:
    seeds = SeedSets()
    try:
        with seeds.claimed("key", RunStore(tmp_path / "a")):
            raise RuntimeError
    except RuntimeError:
        pass
    with seeds.claimed("key", RunStore(tmp_path / "b")) as source:
        assert source is None


def test_other_seed_sets_are_not_waited_for(tmp_path: Path) -> None:
    seeds = SeedSets()
    with seeds.claimed("one", RunStore(tmp_path / "a")), seeds.claimed("two", RunStore(tmp_path / "b")) as source:
        assert source is None


def test_a_copied_round_is_whole_and_says_where_it_comes_from(tmp_path: Path) -> None:
    target = RunStore(tmp_path / "b")
    report = copy_round(finished(tmp_path / "a"), target, 0)
    assert target.rounds() == [0]
    assert report == target.read_json("rounds/0/round.json") == {"round": 0, "rows": 60, "linked_from": "a"}
    assert target.path("rounds/0/chunks/seed-000000.parquet").read_text() == "outcomes"
