"""The same program, asked for in another way, is served and not compiled: end to end through the shim.

The cases are those of docs/equivalence.md.
"""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("google.protobuf", reason="the modules are edited with protobuf")

from neuron_store.benchmarks.equivalence import (
    BEGIN,
    CASES,
    END,
    KERNEL_FORMATS,
    calling_kernel,
    plain,
    stock_keys,
    write_table,
)
from neuron_store.benchmarks.hlo_variations import PLAIN, TRACES
from neuron_store.hashing.hlo_fingerprint import CANONICAL, fingerprint_hlo

DOCUMENT = Path(__file__).parents[1] / "docs/equivalence.md"
# These leave the model's bytes and all that is keyed as it was, so that the direct key finds them.
DIRECT = {
    *("again", "hash_seed", "work_directory", "logfile", "output", "verbose", "run_id", "separate_value", "optlevel"),
    *("lnc", "overridden", "option_order", "directory_moved", "option_file_moved"),
}


def run(host, side, **environment):
    side.lay_out()
    host.cc(*side.arguments, cwd=side.folder, **environment)


def sides(case, folder):
    if case.needs_jax:
        pytest.importorskip("jax", reason="the program is traced by JAX")
    return case.make(folder)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same])
def test_the_same_program_is_a_hit(host, name):
    first, second = sides(CASES[name], host.work)
    run(host, first)
    run(host, second)
    assert len(host.runs) == 1
    kind = "hit_direct" if name in DIRECT else "hit_canonical"
    assert host.counters() == {"miss_stored": 1, kind: 1}
    # From then on the second form is found by its own bytes.
    run(host, second._replace(gone=()))
    expected = {"hit_direct": 2} if kind == "hit_direct" else {"hit_canonical": 1, "hit_direct": 1}
    assert host.counters() == {"miss_stored": 1, **expected}
    assert host.leftovers() == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.same])
def test_another_program_is_a_miss(host, name):
    first, second = sides(CASES[name], host.work)
    run(host, first)
    run(host, second)
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 2}


def test_each_form_is_traced_differently_so_that_the_hit_means_something():
    pytest.importorskip("jax", reason="the program is traced by JAX")
    made = {name: CASES[name].make(Path("unused"))[1].hlo for name in TRACES}
    assert TRACES["again"] == PLAIN
    assert made["again"] == CASES["again"].make(Path("unused"))[0].hlo
    different = {name for name in made if made[name] != made["again"]}
    assert different == set(TRACES) - {"again", "hash_seed"}
    assert {fingerprint_hlo(hlo).mode for hlo in made.values()} == {CANONICAL}


def test_names_and_places_in_the_source_count_where_the_caller_debugs(host):
    first, second = sides(CASES["debug_metadata"], host.work)
    run(host, first, XLA_IR_DEBUG="1")
    run(host, second, XLA_IR_DEBUG="1")
    assert host.counters() == {"miss_stored": 2}


@pytest.mark.parametrize("form", KERNEL_FORMATS)
def test_an_edited_kernel_is_never_served_from_before(host, form):
    """Not by the direct key either: the module's bytes are the same."""
    kernel = host.base / "tmp/add.klir"
    kernel.parent.mkdir()
    hlo = calling_kernel(CASES["logfile"].make(host.work)[0].hlo, KERNEL_FORMATS[form](str(kernel)))
    contents = (b"kernel 1", b"kernel 2", b"kernel 1", b"kernel 3")
    for content in contents:
        kernel.write_bytes(content)
        run(host, plain(host.work, hlo))
    assert len(host.runs) == len(set(contents))
    assert host.counters()["miss_stored"] == len(set(contents))


def test_a_kernel_in_the_place_of_another_is_not_served_because_it_has_the_same_size_and_time(host):
    kernel = host.base / "add.klir"
    hlo = calling_kernel(CASES["logfile"].make(host.work)[0].hlo, KERNEL_FORMATS["klir"](str(kernel)))
    for content in (b"kernel 1", b"kernel 2"):
        kernel.write_bytes(content)
        os.utime(kernel, (1, 1))
        run(host, plain(host.work, hlo))
    assert host.counters() == {"miss_stored": 2}


@pytest.mark.parametrize(
    "document",
    [
        KERNEL_FORMATS["klir"]("/absent/kernels/add.klir"),
        {"func_name": "nki_add", "grid": []},
        {"kernel_file": "kernels/absent.klir"},
    ],
    ids=["an absent file", "no file", "a relative path to nowhere"],
)
def test_a_kernel_whose_code_is_not_found_is_never_cached(host, document):
    hlo = calling_kernel(CASES["logfile"].make(host.work)[0].hlo, document)
    for _ in range(2):
        run(host, plain(host.work, hlo))
    assert len(host.runs) == 2
    assert set(host.counters()) <= {"pass_nki_kernel", "pass_side_file"}


@pytest.mark.parametrize("text", ["--code={path}", "file://{path}", "a, {path}: b"])
def test_a_path_within_a_longer_text_of_a_kernel_is_not_cached(host, text):
    kernel, mentioned = host.base / "add.klir", host.base / "more.bin"
    kernel.write_bytes(b"kernel")
    mentioned.write_bytes(b"more code")
    document = {**KERNEL_FORMATS["klir"](str(kernel)), "options": text.format(path=mentioned)}
    hlo = calling_kernel(CASES["logfile"].make(host.work)[0].hlo, document)
    for _ in range(2):
        run(host, plain(host.work, hlo))
    assert host.counters() == {"pass_side_file": 2}


def test_the_document_has_a_row_for_each_case_and_no_fault_of_ours():
    text = DOCUMENT.read_text()
    rows = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    titles = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert titles == [case.title for case in CASES.values()]
    ours = [row.split(" | ")[2] for row in rows]
    assert ours == ["hit" if case.same else "miss" for case in CASES.values()]


def test_the_documents_columns_of_the_stock_keys_are_what_the_keys_are():
    """Where the case can be made without JAX."""
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in DOCUMENT.read_text().splitlines() if "|" in row}
    for case in CASES.values():
        if case.needs_jax:
            continue
        first, second = (stock_keys(side) for side in case.make(Path("/scratch")))
        _, _, _, whole, flags = rows[case.title].strip(" |").split(" | ")
        assert (flags == "same") == (first[1] == second[1]), case.title
        if case.stock_caches:
            assert bool(re.search(r"\bhit\b", whole)) == (first[0] == second[0]), case.title


def test_the_table_is_put_between_its_marks(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(document, "new")
    assert document.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        write_table(document, "new")
