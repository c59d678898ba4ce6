"""What this machine has, counted without Ray."""

import os

from s3ray.placement.plan import NodeFacts


def local_facts() -> list[NodeFacts]:
    """This machine as the only node: what a locally started Ray would have."""
    from torch.cuda import device_count  # seconds, and of no use where a cluster is joined

    return [NodeFacts(node_id="local", num_cpus=len(os.sched_getaffinity(0)), num_gpus=device_count())]
