"""What a miss costs on top of the compile itself."""

import os
import statistics

from conftest import timed

MB = 1000 * 1000


def test_miss_overhead(benchmark, bench, say):
    bench.write_neff(1600 * 1000)
    model = bench.write_hlo(MB)
    bench.compile(model)
    bare = []

    def before():
        model.write_bytes(os.urandom(MB))
        bare.append(timed(bench.command(bench.compiler, model), env=bench.env))

    benchmark.pedantic(bench.compile, args=(model,), setup=before, rounds=31)
    over = statistics.median(miss - alone for miss, alone in zip(benchmark.stats.stats.data, bare, strict=True))
    benchmark.extra_info.update(overhead_seconds=over)
    say(f"miss, HLO 1 MB, NEFF 1.6 MB: {over * 1e3:.1f} ms on top of the bare compiler")
