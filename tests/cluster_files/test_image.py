"""The Dockerfile copies what exists, installs what pyproject.toml names in its versions, and runs as nobody special."""

import importlib.util
import re
import tomllib
from pathlib import Path

from tests.cluster_files.files import CLUSTER, IN_IMAGE, ROOT

FILE = CLUSTER / "docker" / "Dockerfile"
INSTRUCTIONS = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_instructions_are_known_and_the_base_is_named_exactly() -> None:
    assert {word for word, _ in instructions()} == INSTRUCTIONS
    default, digest = of("ARG")
    (base,) = of("FROM")
    assert re.fullmatch(r"CUDA=13\.\d+\.\d+", default)  # vLLM 0.32 and its torch are built for CUDA 13
    assert re.fullmatch(r"BASE=sha256:[0-9a-f]{64}", digest)
    assert base == "nvidia/cuda:${CUDA}-devel-ubuntu24.04@${BASE}"


def test_kernels_are_made_ready_by_the_vllm_that_is_installed() -> None:
    """Its command is looked up in the sources of the installed vLLM; what it needs else comes from the base."""
    words = [rest for word, rest in instructions() if word == "RUN"]
    (place,) = [number for number, rest in enumerate(words) if rest == "vllm download-kernels"]
    assert any("pip install" in rest for rest in words[:place])
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    main = (Path(found.origin).parent / "entrypoints" / "cli" / "download_kernels.py").read_text(encoding="utf-8")
    assert 'name = "download-kernels"' in main
    assert {"build-essential", "python3-dev"} <= set(words[0].split())


def test_it_runs_without_rights() -> None:
    assert of("USER") == ["ray"]
    order = [word for word, _ in instructions()]
    root_runs = [rest for word, rest in instructions()[: order.index("USER")] if word == "RUN"]
    assert any("useradd" in rest and "--uid 1000" in rest for rest in root_runs)
    assert not any("pip" in rest.split() for rest in root_runs)
    assert all("sudo" not in rest for rest in of("RUN"))


def test_what_is_copied_exists_and_is_not_kept_from_the_builder() -> None:
    assert of("WORKDIR") == [IN_IMAGE.rstrip("/")]
    copied = [part for rest in of("COPY") for part in rest.split()[1:-1]]
    kept = (CLUSTER / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(copied) == sorted(line[1:] for line in kept if line.startswith("!"))
    assert "*" in kept
    for name in copied:
        assert (ROOT / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "s3ray", "jobs"} <= set(copied)


def test_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installs = [part for rest in of("RUN") for part in rest.split("&&") if "pip install" in part]
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', installs[0])
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert {"gpu", "s3"} <= set(extras.split(","))
    assert "-c constraints.txt" in installs[0]
    assert "--no-deps ." in installs[-1]
    assert not any(re.search(r"\b(ray|vllm|torch|transformers)\b\S*[=<>]", part) for part in installs)
