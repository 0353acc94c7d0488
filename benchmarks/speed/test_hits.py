"""How long a hit takes, as a ratio to `python -I -S -c pass` and to `cp` of the output in the same run."""

import statistics

import pytest
from conftest import paired_median, peak_memory

KB, MB = 1000, 1000 * 1000
CASES = [
    (10 * KB, 1600 * KB, False),
    (1 * MB, 1600 * KB, False),
    (10 * MB, 1600 * KB, False),
    (1 * MB, 40 * MB, False),
    (1 * MB, 40 * MB, True),
    (1 * MB, 700 * MB, False),
    (1 * MB, 700 * MB, True),
]


def name(case):
    hlo, neff, compressible = case
    return f"HLO {hlo / MB:g} MB, NEFF {neff / MB:g} MB{' that shrinks' if compressible else ''}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_whole_process_hit(benchmark, bench, say, case):
    hlo, neff, compressible = case
    bench.write_neff(neff, compressible=compressible)
    model = bench.write_hlo(hlo)
    bench.compile(model)
    rounds = 101 if neff < 10 * MB else 21 if neff < 100 * MB else 7
    bare, copied = [], []

    def before():
        (bench.folder / "out.neff").unlink(missing_ok=True)
        (bench.folder / "copied.neff").unlink(missing_ok=True)
        bare.append(bench.bare_interpreter())
        copied.append(bench.copy())

    benchmark.pedantic(bench.compile, args=(model,), setup=before, rounds=rounds)
    hits = benchmark.stats.stats.data
    memory = peak_memory(bench.command(bench.launcher, model), bench.env)
    to_bare, to_copy = paired_median(hits, bare), paired_median(hits, copied)
    benchmark.extra_info.update(to_bare_interpreter=to_bare, to_cp=to_copy, peak_memory_bytes=memory)
    say(
        f"hit, {name(case):38}  {statistics.median(hits) * 1e3:7.1f} ms   {to_bare:6.2f}x bare interpreter "
        f"  {to_copy:6.2f}x cp   peak {memory / MB:4.0f} MB"
    )
