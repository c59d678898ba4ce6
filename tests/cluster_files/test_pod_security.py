"""Every pod in cluster/ keeps the rules of Pod Security's profile `restricted`, and what platform teams ask beside it.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards (v1.34 and later): all of
`baseline`, then what `restricted` adds. A namespace with `pod-security.kubernetes.io/enforce: restricted` refuses pods
that break one of them. Pods that KubeRay makes itself take image and securityContext from these templates: its
init container `wait-gcs-ready` those of the Ray container, its submitter those of `submitterPodTemplate`.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_files.files import CLUSTER, documents

Pod = dict[str, Any]
FOLDER = CLUSTER / "kuberay"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes",),
}
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def templates(found: Any, where: str) -> Iterator[tuple[str, Pod]]:
    """Every pod in a document, however deep, with the way to it."""
    if isinstance(found, dict):
        if isinstance(found.get("containers"), list):
            yield where, found
        for name, value in found.items():
            yield from templates(value, f"{where}.{name}")
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from templates(value, f"{where}.{number}")


def all_pods() -> list[tuple[str, Pod]]:
    paths = sorted(FOLDER.glob("*.yaml"))
    return [
        pod
        for path in paths
        for number, found in enumerate(documents(path))
        for pod in templates(found, f"{path.name}:{number}")
    ]


def containers(pod: Pod) -> list[dict[str, Any]]:
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in pod.get(kind, [])]


def contexts(pod: Pod) -> list[dict[str, Any]]:
    """The security contexts of the pod and of its containers."""
    return [pod.get("securityContext") or {}, *(one.get("securityContext") or {} for one in containers(pod))]


def _of_context(context: dict[str, Any]) -> Iterator[str]:
    """What `baseline` has against the security context of a pod or container."""
    if context.get("privileged"):
        yield "privileged containers"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "HostProcess"
    if context.get("procMount", "Default") != "Default":
        yield "/proc mount type"
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield "seccomp"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield "AppArmor"
    options = context.get("seLinuxOptions") or {}
    if options.get("type") not in SELINUX or options.get("user") or options.get("role"):
        yield "SELinux"
    if not {entry["name"] for entry in context.get("sysctls", [])} <= SYSCTLS:
        yield "sysctls"


def baseline(pod: Pod) -> Iterator[str]:
    """What the profile `baseline` has against a pod; the capabilities that it allows are fewer in `restricted`."""
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "HostPath volumes"
    for each in contexts(pod):
        yield from _of_context(each)
    for one in containers(pod):
        if any(port.get("hostPort") for port in one.get("ports", [])):
            yield "host ports"
        hooks = [one.get(name) or {} for name in PROBES] + list((one.get("lifecycle") or {}).values())
        if any((hook.get(way) or {}).get("host") for hook in hooks for way in ("httpGet", "tcpSocket")):
            yield "host probes and lifecycle hooks"


def restricted(pod: Pod) -> Iterator[str]:
    """What the profile `restricted` has against a pod, with all that `baseline` has."""
    yield from baseline(pod)
    of_pod = pod.get("securityContext") or {}
    if any(not (set(volume) - {"name"}) <= VOLUMES for volume in pod.get("volumes", [])):
        yield "volume types"
    if any(each.get("runAsUser") == 0 for each in contexts(pod)):
        yield "running as root user"
    for one in containers(pod):
        own = one.get("securityContext") or {}
        if own.get("allowPrivilegeEscalation") is not False:
            yield "privilege escalation"
        if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
            yield "running as non-root"
        profile = own.get("seccompProfile") or of_pod.get("seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccomp"
        capabilities = own.get("capabilities") or {}
        if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield "capabilities"


PODS = all_pods()


@pytest.mark.parametrize("pod", [pod for _, pod in PODS], ids=[where for where, _ in PODS])
def test_the_profile_restricted_admits_it(pod: Pod) -> None:
    assert list(restricted(pod)) == []


def test_every_pod_was_looked_at() -> None:
    """Head and workers of each cluster, the submitters of the jobs, and Redis."""
    found = [where.split(":")[0] for where, _ in PODS]
    assert {name: found.count(name) for name in found} == {
        "raycluster.yaml": 2,
        "rayjob-kueue.yaml": 3,
        "rayjob.yaml": 3,
        "redis.yaml": 1,
    }


def _drop(*path: str) -> Callable[[Pod], None]:
    def change(pod: Pod) -> None:
        place = pod if path[0] == "securityContext" else pod["containers"][0]
        for name in path[:-1]:
            place = place[name] if name != "container" else place
        del place[path[-1]]

    return change


def _set(where: str, **values: Any) -> Callable[[Pod], None]:
    def change(pod: Pod) -> None:
        place = {"pod": pod, "container": pod["containers"][0], "context": pod["containers"][0]["securityContext"]}
        place[where].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (_drop("securityContext", "runAsNonRoot"), "running as non-root"),
        (_drop("securityContext", "seccompProfile"), "seccomp"),
        (_drop("container", "securityContext", "allowPrivilegeEscalation"), "privilege escalation"),
        (_drop("container", "securityContext", "capabilities"), "capabilities"),
        (_set("context", capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]}), "capabilities"),
        (_set("context", runAsUser=0), "running as root user"),
        (_set("context", privileged=True), "privileged containers"),
        (_set("context", seccompProfile={"type": "Unconfined"}), "seccomp"),
        (_set("context", procMount="Unmasked"), "/proc mount type"),
        (_set("context", appArmorProfile={"type": "Unconfined"}), "AppArmor"),
        (_set("context", seLinuxOptions={"type": "spc_t"}), "SELinux"),
        (_set("pod", hostNetwork=True), "host namespaces"),
        (_set("pod", volumes=[{"name": "models", "hostPath": {"path": "/models"}}]), "HostPath volumes"),
        (_set("pod", volumes=[{"name": "models", "nfs": {"server": "s", "path": "/"}}]), "volume types"),
        (_set("container", ports=[{"name": "nccl", "containerPort": 1, "hostPort": 1}]), "host ports"),
        (_set("container", livenessProbe={"httpGet": {"host": "10.0.0.1"}}), "host probes and lifecycle hooks"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_found(change: Callable[[Pod], None], broken: str) -> None:
    pod: Pod = copy.deepcopy(PODS[0][1])
    change(pod)
    assert broken in set(restricted(pod))


@pytest.mark.parametrize("pod", [pod for _, pod in PODS], ids=[where for where, _ in PODS])
def test_a_pod_says_what_it_takes_of_a_nodes_disk_and_leaves_owners_alone(pod: Pod) -> None:
    """Without a request, pods that fill a node's disk are evicted first; without OnRootMismatch each start of a pod
    changes the owner of every file on its volumes (Kubernetes, "Configure a Security Context for a Pod")."""
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    for one in containers(pod):
        assert "@sha256:" in one["image"]
        for kind in ("requests", "limits"):
            assert "ephemeral-storage" in one["resources"][kind]
    for volume in pod.get("volumes", []):
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


def test_no_manifest_puts_a_cache_of_compiled_code_or_weights_on_the_shared_volume() -> None:
    for where, pod in PODS:
        for one in containers(pod):
            for entry in one.get("env", []):
                if entry["name"].endswith(("_HOME", "_CACHE", "_CACHE_ROOT", "_CACHE_DIR", "_CACHE_PATH", "_BASE")):
                    assert entry["value"].startswith("/cache/"), f"{where}: {entry['name']}"


def test_the_image_is_filled_in_at_one_place_of_each_manifest() -> None:
    for path in [Path(FOLDER / name) for name in ("raycluster.yaml", "rayjob.yaml", "rayjob-kueue.yaml")]:
        assert path.read_text(encoding="utf-8").count("@sha256:DIGEST") == 1
