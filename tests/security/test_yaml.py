"""Files that users write, by someone who means harm."""

from pathlib import Path

import pytest

from s3ray.config.grid import load_campaign
from s3ray.config.load import load_config, parse_settings, parse_value, read_yaml
from s3ray.errors import InputError
from s3ray.tasks import load_task

LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("load", [load_config, load_campaign, load_task])
@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:antigravity"])
def test_no_yaml_runs_code(load: object, tag: str, tmp_path: Path) -> None:
    file, sign = tmp_path / "job.yaml", tmp_path / "sign"
    file.write_text(f"name: !!python/{tag} ['{sign}']\n")
    assert callable(load)
    with pytest.raises(InputError, match="not valid YAML"):
        load(str(file))
    with pytest.raises(InputError, match="not valid YAML"):
        parse_settings([f"name=!!python/{tag} ['{sign}']"])
    assert not sign.exists()


@pytest.mark.parametrize("field", ["name", "task", "generator"])
def test_a_bomb_of_aliases_is_refused_before_it_is_written_out(field: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"{LAUGHS}{field}: *i\n")
    with pytest.raises(InputError, match="expand to too much text"):
        load_config(file)


def test_aliases_of_modest_size_are_fine() -> None:
    assert parse_value("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}")["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "[" * 5000, "a: 2020-99-99", f"a: {'9' * 5000}", "a: [", "? {a: b}\n: c", "{" * 5000]
)
def test_what_trips_the_parser_is_a_message_and_no_traceback(text: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match="not valid YAML"):
        read_yaml(file)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="longer than"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", ".hidden", "a/b", "a\\b", "x\n", "-rf", ""])
def test_the_name_of_a_run_stays_in_its_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: job\ntask: imdb\nstrategy: {name: zerogen, rows: 9}\n")
    with pytest.raises(InputError):
        load_config(tmp_path / "job.yaml", {"name": name})
    grid = {"name": "grid", "job": "job.yaml", "axes": {"rows": {name: {"strategy.rows": 9}}}}
    (tmp_path / "grid.yaml").write_text(repr(grid))
    with pytest.raises(InputError):
        load_campaign(tmp_path / "grid.yaml")
    with pytest.raises(InputError):
        load_campaign(tmp_path / "grid.yaml", {"name": name, "axes": {"rows": {"nine": {"strategy.rows": 9}}}})
