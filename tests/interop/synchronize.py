"""Have the real optimum-neuron upload a stock cache's folder: python synchronize.py FOLDER REPO.

HF_ENDPOINT in the environment says to which Hub. The Neuron packages are stubs: the layout on the Hub comes from
optimum-neuron's own `synchronize_hub_cache`, whatever lies in the folder.
"""

import sys

import neuron_stubs

COMPILER = "2.21.33363.0+82129205"

neuron_stubs.install(COMPILER)

from optimum.neuron.cache.hub_cache import synchronize_hub_cache  # noqa: E402 - after the stubs

if __name__ == "__main__":
    synchronize_hub_cache(cache_path=sys.argv[1], cache_repo_id=sys.argv[2])
