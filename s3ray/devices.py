"""The devices of this machine, counted without Ray."""

import os

from s3ray.placement.plan import NodeFacts


def local_facts() -> list[NodeFacts]:
    """This machine as the only node, with the devices that a local Ray would have."""
    from torch.cuda import device_count  # takes seconds to import, and is not needed where a cluster is joined

    return [NodeFacts(node_id="local", num_cpus=len(os.sched_getaffinity(0)), num_gpus=device_count())]
