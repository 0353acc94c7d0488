"""How fast HLO is fingerprinted, beside SHA-256 of the same bytes and the stock method, in the same run."""

import hashlib
import subprocess
import sys
import time

import pytest
from hlo_sizes import module_of, module_with_constant

from neuron_store.benchmarks.builtin import builtin_model, builtin_names
from neuron_store.hashing import fingerprint_hlo

MB = 1000 * 1000


def seconds(function, *arguments):
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def peak_memory(path):
    """Peak resident memory in bytes of a process that does nothing but fingerprint the file."""
    probe = (
        "import sys\n"
        "from neuron_store.hashing import fingerprint_hlo\n"
        "assert fingerprint_hlo(sys.argv[1]).mode == 'canonical'\n"
        # Not getrusage, which counts what the process was before exec, too.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    return 1024 * int(subprocess.run([sys.executable, "-c", probe, path], capture_output=True, check=True).stdout)


def stock_method(data):
    """What AWS's tools do: SHA-256 of the text form of the parsed proto."""
    schema = pytest.importorskip("neuron_store.benchmarks.hlo_schema", reason="the schema needs protobuf")
    return hashlib.sha256(str(schema.module_class().FromString(data)).encode()).hexdigest()


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", builtin_names())
def test_a_typical_module(benchmark, say, name):
    data = builtin_model(name)
    benchmark(fingerprint_hlo, data)
    stock_method(data)  # its schema is made once
    ours, stock = benchmark.stats.stats.median, seconds(stock_method, data)
    say(f"fingerprint of {name} ({len(data) / MB:.2f} MB): {ours * 1e3:.1f} ms, {ours / stock:.1f}x the stock method")


def test_a_hundred_thousand_instructions(benchmark, say, tmp_path):
    data, count = module_of(100_000)
    path = tmp_path / "large.pb"
    path.write_bytes(data)
    benchmark.pedantic(fingerprint_hlo, args=(path,), rounds=5)
    ours, stock, plain = benchmark.stats.stats.median, seconds(stock_method, data), seconds(sha256_of, data)
    say(
        f"fingerprint of {count:,} instructions ({len(data) / MB:.1f} MB): {ours:.2f} s, {ours / plain:.0f}x sha256, "
        f"{ours / stock:.1f}x the stock method, peak {peak_memory(path) / MB:.0f} MB"
    )


def test_a_large_constant(benchmark, say, tmp_path):
    data = module_with_constant(210 * MB)
    path = tmp_path / "constant.pb"
    path.write_bytes(data)
    plain = min(seconds(sha256_of, data) for _ in range(3))
    benchmark.pedantic(fingerprint_hlo, args=(path,), rounds=3)
    ours = benchmark.stats.stats.median
    say(
        f"fingerprint of 210 MB of constants: {ours:.2f} s, {ours / plain:.2f}x sha256 of the file, "
        f"peak {peak_memory(path) / len(data):.2f}x its size"
    )
