"""Start torchrun on every host of a SageMaker job, under neuron-store."""

import json
import os
import sys

hosts = json.loads(os.environ["SM_HOSTS"])
command = [
    "torchrun",
    f"--nnodes={len(hosts)}",
    f"--node_rank={hosts.index(os.environ['SM_CURRENT_HOST'])}",
    "--nproc_per_node=32",
    f"--master_addr={hosts[0]}",
    "--master_port=41000",
    "train.py",
    *sys.argv[1:],
]
run = ["neuron-store", "run", "--push-timeout", "600", "--", *command]
os.execvp(run[0], run)
