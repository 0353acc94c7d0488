"""Print as JSON what the real optimum-neuron finds: python lookup.py MODEL [name=value …].

The model is a Hub repo or a folder. The values are the arguments of optimum-neuron's own `select_hub_cached_entries`,
as in task=text-generation batch_size=1; without any but the task this is `get_hub_cached_entries`. HF_ENDPOINT and
CUSTOM_CACHE_REPO in the environment say where it looks. `python lookup.py --models` prints `get_hub_cached_models`.
"""

import json
import sys

from optimum.neuron.cache.hub_cache import get_hub_cached_entries, get_hub_cached_models, select_hub_cached_entries

NUMBERS = ("batch_size", "sequence_length", "tensor_parallel_size")


def main(model, *words):
    if model == "--models":
        return sorted(get_hub_cached_models())
    wanted = dict(word.split("=", 1) for word in words)
    for name in NUMBERS:
        if name in wanted:
            wanted[name] = int(wanted[name])
    task = wanted.pop("task", None)
    if wanted:
        return select_hub_cached_entries(model, task=task, **wanted)
    return get_hub_cached_entries(model, task=task)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
