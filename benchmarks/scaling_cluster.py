"""A Ray cluster on this machine that scales itself: Ray's autoscaler starts raylets when they are asked for.

Ray's own ``AutoscalingCluster`` with the parts replaced that cannot be used here: it reads a file that is not in Ray's
wheel, and it stops every Ray on the machine. The autoscaler (v2) and its provider of fake nodes are Ray's.
"""

import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]  # compiled
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from s3ray.addresses import is_cluster
from tests.cluster.heads import free_port

WAIT_S = 120.0
_NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
# Nodes on one machine share it: a node that is told to go waits for nobody.
_ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    _NODE_ID: FAKE_HEAD_NODE_ID,
}


class ScalingCluster(AutoscalingCluster):  # type: ignore[misc]  # untyped
    """A head without devices, and from none to ``num_nodes`` nodes with ``resources`` each."""

    def __init__(self, num_nodes: int, resources: Mapping[str, int], idle_s: float) -> None:
        """Nodes that have been idle for ``idle_s`` are taken away."""
        self._num_nodes = num_nodes
        self._resources = dict(resources)
        self._idle_s = idle_s
        self._port = free_port()
        self._folder = Path(tempfile.mkdtemp(dir="/tmp"))  # short, because Ray puts sockets below it
        self._head: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where to join it."""
        return f"127.0.0.1:{self._port}"

    def _file(self) -> Path:
        workers = {"resources": self._resources, "node_config": {}, "min_workers": 0, "max_workers": self._num_nodes}
        head: dict[str, Any] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        config = {
            "cluster_name": "fake_multinode",
            "max_workers": self._num_nodes,
            "upscaling_speed": 100.0,
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                # By its own name Ray looks for defaults in a file that is not in its wheel.
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": self.address,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
            },
            "available_node_types": {"ray.head.default": head, "gpu": workers},
            "head_node_type": "ray.head.default",
            "auth": {},
            "setup_commands": [],
            "initialization_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
            "file_mounts": {},
            "cluster_synced_files": [],
        }
        path = self._folder / "autoscaling.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def start(self) -> None:
        """Start the head and its autoscaler, and join it."""
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        Config.initialize("")  # Ray read the mode when it was imported
        names = ("dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
        ports = [f"--{name}={free_port()}" for name in names]
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        command += [
            "--include-dashboard=false",
            "--num-cpus=0",
            "--num-gpus=0",
            "--node-ip-address=127.0.0.1",
            f"--port={self._port}",
            *ports,
        ]
        command += [f"--temp-dir={self._folder}", f"--autoscaling-config={self._file()}"]
        with (self._folder / "head.log").open("w") as log:
            self._head = subprocess.Popen(command, env=os.environ | _ENVIRONMENT, stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT_S
        while not is_cluster(self.address):
            if time.monotonic() > deadline or self._head.poll() is not None:
                raise SystemExit(f"the head does not start; see {log.name}")
            time.sleep(0.2)
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def shutdown(self) -> None:
        """End every process of this cluster, and no other."""
        ray.shutdown()
        if self._head is not None:
            processes = [*psutil.Process(self._head.pid).children(recursive=True), psutil.Process(self._head.pid)]
            for process in processes:
                process.terminate()
            for process in psutil.wait_procs(processes, timeout=5)[1]:
                process.kill()
            self._head.wait(WAIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def nodes(self) -> list[str]:
        """The ids of the living nodes, without the head."""
        return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != FAKE_HEAD_NODE_ID]

    def wait_for(self, num_nodes: int) -> bool:
        """Wait until there are so many nodes; False if it takes too long."""
        deadline = time.monotonic() + WAIT_S
        while len(self.nodes()) != num_nodes:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def preempt(self, draw: random.Random, notice_s: float) -> bool:
        """Take a node away, with so many seconds of notice or without any (0); False if there is none."""
        nodes = self.nodes()
        if not nodes:
            return False
        node_id = draw.choice(nodes)
        if notice_s:
            reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            deadline = int((time.time() + notice_s) * 1000)
            GcsClient(address=self.address).drain_node(node_id, reason, "the spot machine is taken back", deadline)
        threading.Timer(notice_s, self._kill, [node_id]).start()
        return True

    def _kill(self, node_id: str) -> None:
        """Kill -9 a raylet, unless it has ended by itself."""
        assert self._head is not None
        for process in psutil.Process(self._head.pid).children(recursive=True):
            try:
                if process.name() == "raylet" and process.environ().get(_NODE_ID) == node_id:
                    process.kill()
            except psutil.Error:
                continue  # it ended while we looked


class NodeClock:
    """Watches how long nodes are there, from a thread of its own."""

    def __init__(self, cluster: ScalingCluster, every_s: float = 0.2) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.node_s = 0.0
        self.most = 0
        self.first_s: float | None = None
        """Seconds until the first node was there."""

    def __enter__(self) -> "NodeClock":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        started = last = time.monotonic()
        while not self._end.wait(self._every_s):
            num, now = len(self._cluster.nodes()), time.monotonic()
            self.node_s += num * (now - last)
            self.most = max(self.most, num)
            if num and self.first_s is None:
                self.first_s = now - started
            last = now
