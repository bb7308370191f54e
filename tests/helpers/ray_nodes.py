"""A Ray cluster in a process of its own: prints its address, then obeys a word a line.

It adds a node ("add"), kills the first one that was added ("kill"), or ends the head's part in the
work ("behead").

Apart from the tests because Ray leaves files and processes open that Python warns of.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("RAY_worker_niceness", "0")
from ray.cluster_utils import Cluster

MEMORY = 100 * 2**20

cluster = Cluster()
head = cluster.add_node(
    num_cpus=1,
    object_store_memory=MEMORY,
    include_dashboard=False,
    # It should find out within seconds that a node is gone.
    _system_config={
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 4,
    },
)
print(f"address {cluster.address}", flush=True)
nodes = []
for line in sys.stdin:
    if line.strip() == "add":
        # An address of its own, else older Ray has the driver join any of them: so the last one.
        own = f"127.0.0.{len(cluster.list_all_nodes()) + 1}"
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=MEMORY, node_ip_address=own))
    elif line.strip() == "kill":
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    elif line.strip() == "behead":
        head.kill_raylet()
    print("done", flush=True)
cluster.shutdown()
