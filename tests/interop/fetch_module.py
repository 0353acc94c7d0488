"""Have the real optimum-neuron's cache serve a module from a repo: python fetch_module.py REPO NAME DEST.

NAME is `neuronxcc-<version>/<module>`. It asks as libneuronxla does: whether `model.done` is there, then for the NEFF.
"""

import sys
import tempfile

import neuron_stubs

neuron_stubs.install("2.21.33363.0+82129205")

from libneuronxla.neuron_cc_cache import CacheUrl  # noqa: E402 - after the stubs
from optimum.neuron.cache.hub_cache import create_hub_compile_cache_proxy  # noqa: E402


def main(repo, name, destination):
    with tempfile.TemporaryDirectory() as folder:
        cache = create_hub_compile_cache_proxy(CacheUrl(folder), repo)
        if not cache.exists(f"{folder}/{name}/model.done"):
            sys.exit("it would be compiled")
        cache.download_file(f"{folder}/{name}/model.neff", destination)


if __name__ == "__main__":
    main(*sys.argv[1:])
