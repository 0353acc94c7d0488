"""How fast the direct key is made from the input's bytes."""

import os

import pytest

from neuron_store.hashing.inputs import InputFile
from neuron_store.hashing.keys import Component, begin_direct_key

MB = 1000 * 1000
COMPONENTS = [Component("compiler", [b"neuronx-cc 2"]), Component("flags", [b"--target=trn1"])]


@pytest.mark.parametrize("size", [MB // 100, MB, 10 * MB, 200 * MB])
def test_direct_key(benchmark, tmp_path, say, size):
    path = tmp_path / "model.pb"
    path.write_bytes(os.urandom(size))

    def make():
        model = InputFile(str(path))
        hasher = begin_direct_key(COMPONENTS)
        model.feed(hasher)
        model.close()
        return hasher.hexdigest()

    benchmark(make)
    speed = size / benchmark.stats.stats.median / MB
    benchmark.extra_info.update(megabytes_per_second=speed)
    say(f"direct key of {size / MB:g} MB: {speed:,.0f} MB/s")
