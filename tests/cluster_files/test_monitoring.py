"""Prometheus reads the file that Ray writes, and the dashboard asks for metrics that somebody exports."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import ray
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from s3ray.config.load import load_config
from s3ray.monitor.prometheus import METRICS
from tests.cluster_files.files import CLUSTER, ROOT, documents

FOLDER = CLUSTER / "monitoring"
FUNCTIONS = {"sum", "avg", "max", "rate", "increase", "time", "by"}


def known() -> dict[str, dict[str, Any]]:
    """The names of others, by who exports them."""
    (found,) = documents(FOLDER / "metrics.yaml")
    return found


def labels() -> dict[str, list[str]]:
    """Every metric that may be asked for, with its labels; Ray puts its own before the names of s3ray."""
    of_others = {name: list(about["labels"]) for group in known().values() for name, about in group.items()}
    return of_others | {f"ray_{name}": ["run", *metric.tags] for name, metric in METRICS.items()}


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8")))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_for_known_metrics(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        expression = re.sub(r'"[^"]*"', '""', target["expr"])
        assert ("$run" in target["expr"]) == ("ray_s3ray_" in expression)
        assert expression.count("(") == expression.count(")")
        words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_:]*", re.sub(r"\[\w+\]", "", expression)))
        metrics = {word for word in words if word.startswith(("ray_", "vllm:"))}
        assert metrics
        assert metrics <= set(labels())
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for word in (words - metrics - FUNCTIONS) | legend:
            assert all(word in labels()[metric] for metric in metrics), word


def test_every_known_metric_is_on_the_dashboard_and_no_panel_covers_another() -> None:
    asked = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert {name for name in labels() if re.search(rf"\b{name}\b", asked)} == set(labels())
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in everything):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_ray_and_vllm_export_the_names() -> None:
    """Looked up in what they ship: Ray's own dashboards, and the names that vLLM gives its metrics."""
    shipped = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    of_ray = "\n".join(path.read_text(encoding="utf-8") for path in shipped.glob("*.py"))
    for name in known()["ray"]:
        assert re.search(rf"\b{name}\b", of_ray), name
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None
    assert vllm.origin is not None
    of_vllm = (Path(vllm.origin).parent / "v1" / "metrics" / "loggers.py").read_text(encoding="utf-8")
    for name in known()["vllm"]:
        assert f'"{name.removesuffix("_total")}"' in of_vllm, name


def test_runs_are_chosen_by_a_metric_that_all_have() -> None:
    (chosen,) = [variable for variable in dashboard()["templating"]["list"] if variable["name"] == "run"]
    (metric,) = re.findall(r"^label_values\((\w+), run\)$", chosen["query"])
    assert metric in labels()


def test_prometheus_reads_what_ray_writes() -> None:
    (config,) = documents(FOLDER / "prometheus.yml")
    of_ray, of_servers = config["scrape_configs"]
    (files,) = of_ray["file_sd_configs"]
    assert files["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert set(config) == {"global", "scrape_configs"}
    endpoints = [urlsplit(endpoint.url) for endpoint in load_config(ROOT / "jobs" / "openai.yaml").generator.endpoints]
    assert of_servers["static_configs"][0]["targets"][0] in [endpoint.netloc for endpoint in endpoints]
    (monitor,) = documents(FOLDER / "podmonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
