"""Run folders that somebody else wrote: nothing in them is executed, and nothing outside them is overwritten."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import s3ray
from s3ray.errors import S3RayError
from s3ray.report.export import export_dataset
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.student.checkpoint import PLAIN, TENSORS, read_state, write_state
from s3ray.telemetry.events import EventLog
from tests.events import an_event
from tests.monitor.run_folder import write_run
from tests.security.test_models import Bomb

PRECIOUS = "what must stay\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of whoever opens the folder."""
    file = tmp_path / "home" / ".bashrc"
    file.parent.mkdir()
    file.write_text(PRECIOUS)
    return file


def test_a_checkpoint_is_not_unpickled(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "sign"))
    for name in (TENSORS, PLAIN, "state.pt"):
        (tmp_path / name).write_bytes(bomb)
    with pytest.raises(Exception, match=r"(?i)header|decode"):
        read_state(tmp_path)
    write_state({"weights": torch.ones(2)}, tmp_path)
    (tmp_path / TENSORS).write_bytes(bomb)
    with pytest.raises(Exception, match=r"(?i)header"):
        read_state(tmp_path)
    assert not (tmp_path / "sign").exists()


def test_nothing_is_pickled_but_what_goes_from_one_process_of_ray_to_another() -> None:
    package = Path(s3ray.__file__).parent
    words = ("import pickle", "torch.load(", "torch.save(", "joblib", "allow_pickle", "unsafe_load", "full_load")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found == {"generator/actor.py", "student/ray_trainer.py"}


def test_a_state_comes_back_bit_by_bit_and_holds_nothing_else(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=0.1)
    for _ in range(3):
        layer(torch.randn(4, 3)).sum().backward()
        optimiser.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    weights = layer.state_dict()
    state: dict[str, Any] = {
        "model": weights,
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "best": weights,
    }
    state |= {"odd": [float("inf"), None, 0.1 + 0.2, (1, "x"), {7: {}}, torch.tensor(1.5), torch.eye(3).t()[1:]]}
    write_state(state, tmp_path)
    found = read_state(tmp_path)
    assert found["odd"][:5] == state["odd"][:5]
    pairs = [(found["odd"][-1], state["odd"][-1]), (found["odd"][-2], state["odd"][-2])]
    pairs += [(found[part][name], weights[name]) for part in ("model", "best") for name in weights]
    known = optimiser.state_dict()
    pairs += [(found["optimiser"]["state"][0][name], known["state"][0][name]) for name in known["state"][0]]
    assert all(one.equal(other) and one.dtype == other.dtype for one, other in pairs)
    assert found["optimiser"]["param_groups"] == known["param_groups"]
    assert found["schedule"] == schedule.state_dict()
    with pytest.raises(TypeError):
        write_state({"code": Bomb(tmp_path)}, tmp_path)


def test_a_table_does_not_unpickle_the_types_that_it_names(tmp_path: Path) -> None:
    """CVE-2023-47248: Arrow once made extension types from a pickle in the schema."""
    store = write_run(tmp_path / "run")
    table = store.read_table("rounds/0/accepted.parquet")
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(tmp_path / "sign")),
    }
    fields = [field.with_metadata(extension) if pa.types.is_string(field.type) else field for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), store.path("rounds/0/accepted.parquet"))
    write_report(store)
    assert not (tmp_path / "sign").exists()


@pytest.mark.parametrize("link", [".report.html.writing", "report.html", ".timeline.json.writing", "timeline.json"])
def test_a_report_overwrites_nothing_that_a_link_leads_to(tmp_path: Path, precious: Path, link: str) -> None:
    store = write_run(tmp_path / "run")
    store.path(link).symlink_to(precious)
    write_report(store)
    assert precious.read_text() == PRECIOUS
    assert not store.path("report.html").is_symlink()


@pytest.mark.parametrize("link", [".lock", "events.jsonl"])
def test_lock_and_events_do_not_follow_a_link(tmp_path: Path, precious: Path, link: str) -> None:
    store = RunStore(tmp_path / "run")
    (tmp_path / "run").mkdir()
    store.path(link).symlink_to(precious)
    with pytest.raises(S3RayError, match="leads out of the run folder"), store.lock():
        EventLog(store, "run", 1).emit(an_event("run_finished"))
    assert precious.read_text() == PRECIOUS


def test_a_folder_that_is_a_link_is_not_written_to(tmp_path: Path, precious: Path) -> None:
    store = write_run(tmp_path / "run")
    store.path("dataset").symlink_to(precious.parent)
    store.path("rounds/9").symlink_to(precious.parent)
    for name in ("dataset/README.md", "rounds/9/.bashrc", "../home/.bashrc", "rounds/../../home/.bashrc"):
        with pytest.raises(S3RayError, match="leads out of the run folder"):
            store.write_text(name, "gone")
    assert precious.read_text() == PRECIOUS


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    store = write_run(tmp_path / "big disk" / "run")
    (tmp_path / "run").symlink_to(store.root)
    assert write_report(RunStore.existing(tmp_path / "run"))


def test_a_card_quotes_no_file_that_the_run_leads_to(tmp_path: Path, precious: Path) -> None:
    store = write_run(tmp_path / "run")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "LICENSE.md").symlink_to(precious)
    config = store.read_config()
    store.write_text("config.yaml", yaml.safe_dump(config | {"data": str(folder)}))
    export_dataset(store, tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert PRECIOUS.strip() not in card
    (folder / "LICENSE.md").unlink()
    (folder / "LICENSE.md").write_text("CC BY 4.0")
    export_dataset(store, tmp_path / "again")
    assert "CC BY 4.0" in (tmp_path / "again" / "README.md").read_text()
