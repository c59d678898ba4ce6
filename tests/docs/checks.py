"""Whether programs that are not here would take what pages ask of them: each call of a stand-in, as its words."""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import botocore.session
from ray.scripts import scripts

from s3ray.config.load import load_config
from tests.cluster_files.files import CLUSTER, documents
from tests.docs.pages import ROOT


def check_call(words: list[str]) -> None:
    """Raise ``AssertionError`` or the parser's own error for what the program would not take."""
    _CHECKS[words[0]](words[1:])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)


def _manifests() -> Iterator[dict[str, Any]]:
    for path in (CLUSTER / "kuberay").glob("*.yaml"):
        yield from documents(path)


def _names(kind: str) -> set[str]:
    """Those that manifests give; where Kubernetes makes one up, nobody can ask for it."""
    metadata = [each["metadata"] for each in _manifests() if each["kind"] == kind]
    return {each["name"] for each in metadata if "name" in each}


def _kubectl(words: list[str]) -> None:
    parser = _Parser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    apply = verbs.add_parser("apply")
    apply.add_argument("-f", action="append", required=True)
    create = verbs.add_parser("create")
    create.add_argument("kind", choices=["secret"])
    create.add_argument("type", choices=["generic"])
    create.add_argument("name")
    create.add_argument("--from-literal", action="append", required=True)
    get = verbs.add_parser("get")
    get.add_argument("kind", choices=["rayjob", "secret"])
    get.add_argument("name")
    get.add_argument("--watch", action="store_true")
    get.add_argument("-o")
    logs = verbs.add_parser("logs")
    logs.add_argument("-f", action="store_true")
    logs.add_argument("name")
    forward = verbs.add_parser("port-forward")
    forward.add_argument("name")
    forward.add_argument("port")
    asked = parser.parse_args(words)
    clusters, jobs = _names("RayCluster"), _names("RayJob")
    match asked.verb:
        case "apply":
            assert all((ROOT / path).is_file() for path in asked.f), asked.f
        case "create":
            used = {str(each) for each in _values(list(_manifests()))}
            assert asked.name in used, f"no manifest reads the secret {asked.name}"
            assert all(re.match(r"[\w.-]+=", literal) for literal in asked.from_literal)
        case "get" if asked.kind == "rayjob":
            assert asked.name in jobs
        case "get":  # KubeRay makes a cluster's token a secret of the cluster's name
            assert asked.name in clusters
        case "logs":  # the job that submits has the name of the RayJob
            assert asked.name in {f"job/{name}" for name in jobs}
        case "port-forward":
            assert asked.name in {f"service/{name}-head-svc" for name in clusters}
            assert asked.port == "8265"


def _values(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value)
    else:
        yield node


def _docker(words: list[str]) -> None:
    parser = _Parser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build")
    build.add_argument("-f", required=True)
    build.add_argument("-t", required=True)
    build.add_argument("context")
    push = verbs.add_parser("push")
    push.add_argument("tag")
    asked = parser.parse_args(words)
    # The manifests name its digest too, which the page tells to put there.
    found = [re.fullmatch(r"(\S+/s3ray:[^\s@]+)@sha256:\S+", str(value)) for value in _values(list(_manifests()))]
    images = {image[1] for image in found if image}
    if asked.verb == "build":
        assert (ROOT / asked.f).is_file()
        assert asked.context == "."
    assert {asked.t if asked.verb == "build" else asked.tag} == images


def _aws(words: list[str]) -> None:
    """Service, operation and parameters are those of AWS's own description, which botocore carries."""
    service, operation, *rest = words
    model = botocore.session.get_session().get_service_model(service)
    called = "".join(part.capitalize() for part in operation.split("-"))
    assert called in model.operation_names, f"{service} has no {operation}"
    shape = model.operation_model(called).input_shape
    known = {_dashed(name): name for name in shape.members}
    options = {option.removeprefix("--"): value for option, value in zip(rest[::2], rest[1::2], strict=True)}
    own = {"region", "query", "output"}
    assert set(options) - own <= set(known), f"{called} takes {sorted(known)}"
    assert set(shape.required_members) <= {known[name] for name in options if name in known}


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _sbatch(words: list[str]) -> None:
    options = [word for word in words if word.startswith("--")]
    script, job, *folder = [word for word in words if not word.startswith("--")]
    text = (ROOT / script).read_text(encoding="utf-8")
    for option in options:
        assert re.search(rf"^#SBATCH {option.partition('=')[0]}=", text, re.MULTILINE), (
            f"{script} does not set {option}"
        )
    assert load_config(ROOT / job).name
    assert all(Path(each).is_absolute() for each in folder)


def _tail(words: list[str]) -> None:
    (pattern,) = re.findall(r"^#SBATCH --output=(\S+)", (CLUSTER / "slurm/s3ray.sbatch").read_text(), re.MULTILINE)
    assert words == ["-f", pattern.replace("%j", "*")]


def _pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words[0] == "install"
    for word in words[1:]:
        name, _, extra = word.rstrip("]").partition("[")
        assert name == project["name"]
        assert extra in project["optional-dependencies"]


def _ray(words: list[str]) -> None:
    verb, *rest = words
    parsed = scripts.cli.commands[verb].make_context(verb, list(rest)).params
    assert (ROOT / parsed["cluster_config_file"]).is_file()


_CHECKS = {
    "kubectl": _kubectl,
    "docker": _docker,
    "aws": _aws,
    "sbatch": _sbatch,
    "tail": _tail,
    "pip": _pip,
    "ray": _ray,
}
