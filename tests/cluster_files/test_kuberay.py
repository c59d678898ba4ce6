"""The manifests use fields that KubeRay and Kubernetes have, fit together, and describe nodes that their jobs fit."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
from ray.scripts import scripts

from s3ray.config.job import PlacementConfig
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from tests.cluster_files.files import CLUSTER, ROOT, commands_in, documents

FOLDER = CLUSTER / "kuberay"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLUSTERS = ("rayjob.yaml", "rayjob-kueue.yaml", "raycluster.yaml")
COMPILED = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH")
UNITS = {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@cache
def _fields() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "kuberay_fields.yaml").read_text(encoding="utf-8")))


def check(value: Any, kind: str) -> None:
    jsonschema.validate(value, {**_fields(), "$ref": f"#/definitions/{kind}"})


def manifest(name: str) -> dict[str, Any]:
    (found,) = documents(FOLDER / name)
    return found


def cluster_of(found: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = found["spec"]
    return dict(spec["rayClusterSpec"]) if found["kind"] == "RayJob" else spec


def groups(name: str) -> list[dict[str, Any]]:
    """Head and worker groups."""
    cluster = cluster_of(manifest(name))
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


@pytest.mark.parametrize("name", CLUSTERS)
def test_fields_are_those_of_the_custom_resources(name: str) -> None:
    found = manifest(name)
    assert found["apiVersion"] == "ray.io/v1"
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    check(found["metadata"], "metadata")
    check(found["spec"], {"RayJob": "rayJobSpec", "RayCluster": "rayClusterSpec"}[found["kind"]])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_documents_are_kubernetes_objects(path: Path) -> None:
    kinds = {"RayJob", "RayCluster", "PersistentVolumeClaim", "Service", "StatefulSet"}
    for found in documents(path):
        assert {"apiVersion", "kind", "metadata", "spec"} >= set(found)
        assert found["kind"] in kinds | {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
        check(found["metadata"], "metadata")


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_and_image_are_those_of_the_project(name: str) -> None:
    (ray,) = [text for text in PROJECT["dependencies"] if text.startswith("ray[")]
    version = cluster_of(manifest(name))["rayVersion"]
    assert version.rsplit(".", 1)[0] == ray.split("==")[1].removesuffix(".*")
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for group in groups(name):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == f"REGISTRY/s3ray:{PROJECT['version']}@sha256:DIGEST"


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_what_s3ray_needs(name: str) -> None:
    assert cluster_of(manifest(name))["authOptions"] == {"mode": "token"}
    image = (CLUSTER / "docker" / "Dockerfile").read_text(encoding="utf-8")
    head, *workers = groups(name)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert {"dashboard", "gcs-server"} <= {port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    for group in (head, *workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/shared"]["persistentVolumeClaim"]["claimName"] == manifest("storage.yaml")["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert f"--uid {pod['securityContext']['runAsUser']} " in image
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        for variable in ("HF_HOME", *COMPILED):
            own = mounts["/" + env[variable].split("/")[1]]["emptyDir"]
            assert amount(own["sizeLimit"]) < amount(container["resources"]["requests"]["ephemeral-storage"])
        for option in group["rayStartParams"]:
            assert f"--{option}" in {name for param in scripts.cli.commands["start"].params for name in param.opts}
    for worker in workers:
        resources = worker["template"]["spec"]["containers"][0]["resources"]
        guaranteed = ("cpu", "memory", "nvidia.com/gpu")
        assert {resources["requests"][name] == resources["limits"][name] for name in guaranteed} == {True}
        assert set(worker["template"]["spec"]["nodeSelector"]) == {"nvidia.com/gpu.product"}
        required = worker["template"]["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        (driver,) = required["nodeSelectorTerms"][0]["matchExpressions"]
        assert driver == {"key": "nvidia.com/cuda.driver-version.major", "operator": "Gt", "values": ["579"]}
        assert int(resources["limits"]["nvidia.com/gpu"]) >= 1
        assert worker["template"]["spec"]["terminationGracePeriodSeconds"] > RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
        assert worker["replicas"] == worker["minReplicas"]
        scales = cluster_of(manifest(name)).get("enableInTreeAutoscaling", False)
        assert worker["minReplicas"] == (0 if scales else worker["maxReplicas"])
        store = int(worker["rayStartParams"]["object-store-memory"])
        shm = next(v for v in worker["template"]["spec"]["volumes"] if v["name"] == "shm")
        assert store < amount(shm["emptyDir"]["sizeLimit"]) < amount(resources["limits"]["memory"])


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_pods_with_gpus_come_when_a_job_asks_and_the_autoscaler_keeps_the_rules_of_all_pods(name: str) -> None:
    """KubeRay adds the autoscaler to the head's pod, with this security context and these resources."""
    options = cluster_of(manifest(name))["autoscalerOptions"]
    head = groups(name)[0]["template"]["spec"]["containers"][0]
    assert options["version"] == "v2"
    assert options["securityContext"] == head["securityContext"]
    for kind in ("requests", "limits"):
        assert set(options["resources"][kind]) == {"cpu", "memory", "ephemeral-storage"}
    assert 60 <= options["idleTimeoutSeconds"] <= 600


def facts(name: str) -> list[NodeFacts]:
    """The nodes that Ray would count when all are there that there may be."""
    found = [NodeFacts(node_id="head", num_cpus=0, num_gpus=0)]
    for group in groups(name)[1:]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for place in range(group["maxReplicas"]):
            num_cpus, num_gpus = int(limits["cpu"]), int(limits["nvidia.com/gpu"])
            found.append(NodeFacts(node_id=f"gpu-{place}", num_cpus=num_cpus, num_gpus=num_gpus))
    return found


@pytest.mark.parametrize("name", CLUSTERS[:2])
def test_the_submitter_is_a_pod_of_our_own_whose_command_kuberay_fills_in(name: str) -> None:
    """KubeRay's own template for it has no securityContext (GetDefaultSubmitterContainer in its common/job.go)."""
    pod = manifest(name)["spec"]["submitterPodTemplate"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert not {"command", "args"} & set(container)
    assert container["image"] == groups(name)[0]["template"]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("name", CLUSTERS[:2])
def test_the_job_fits_the_cluster_and_can_be_tried_again(name: str) -> None:
    spec = manifest(name)["spec"]
    (command,) = commands_in(spec["entrypoint"], name)
    (config,) = command.configs()
    assert config.placement.elastic == ("enableInTreeAutoscaling" in cluster_of(manifest(name)))
    found = plan_placement(config.model_copy(update={"placement": PlacementConfig()}), facts(name))
    assert len(found.engines) == found.num_wanted == sum(node.num_gpus for node in facts(name))
    assert plan_placement(config, facts(name)).num_planned == found.num_wanted
    assert command.parse()["out"].startswith("/shared/")  # the next attempt must find it
    assert spec["backoffLimit"] > 0
    assert 0 < spec.get("preRunningDeadlineSeconds", 1) < spec["activeDeadlineSeconds"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0


def test_only_the_queued_job_waits_to_be_admitted() -> None:
    """Suspended without a queue, a job would wait for ever; in a queue, it must not be named for good."""
    plain, queued = manifest("rayjob.yaml"), manifest("rayjob-kueue.yaml")
    assert "suspend" not in plain["spec"]
    assert "labels" not in plain["metadata"]
    assert queued["spec"]["suspend"] is True
    assert "generateName" in queued["metadata"]
    flavor, quota, local = documents(FOLDER / "kueue.yaml")
    assert {found["apiVersion"] for found in (flavor, quota, local)} == {"kueue.x-k8s.io/v1beta2"}
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": local["metadata"]["name"]}
    assert local["spec"]["clusterQueue"] == quota["metadata"]["name"]
    (group,) = quota["spec"]["resourceGroups"]
    (from_flavor,) = group["flavors"]
    assert from_flavor["name"] == flavor["metadata"]["name"]
    assert [entry["name"] for entry in from_flavor["resources"]] == group["coveredResources"]
    for entry in from_flavor["resources"]:
        asked = 0.0
        for pod in groups("rayjob-kueue.yaml"):
            requests = pod["template"]["spec"]["containers"][0]["resources"]["requests"]
            asked += pod.get("replicas", 1) * amount(requests.get(entry["name"], "0"))
        assert asked <= amount(str(entry["nominalQuota"])), entry["name"]


def test_redis_is_the_one_that_the_cluster_asks() -> None:
    service, redis = documents(FOLDER / "redis.yaml")
    options = cluster_of(manifest("raycluster.yaml"))["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    template = redis["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"] == redis["spec"]["selector"]["matchLabels"]
    (container,) = template["spec"]["containers"]
    check(container, "container")
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == secret
    page = (ROOT / "docs" / "clusters" / "kuberay.md").read_text(encoding="utf-8")
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=" in page
    assert container["volumeMounts"][0]["name"] == redis["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]
