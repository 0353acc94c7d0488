"""The main job, seen from outside: compile once, serve afterwards, whatever form the caller uses."""

import os
import subprocess
import sys

import pytest

UUID = "3e0c2a1b-6a52-4f6c-9d62-6a2c1fbb9f3a"

# The command lines that frameworks were seen to use; {m} is the model, {o} the output, {w} the work folder.
OBSERVED = {
    "torch-xla 2023": "--target=trn1 compile --framework XLA {m} --output {o} --model-type=transformer --auto-cast=none"
    " --verbose=35",
    "torch-xla 2024": "compile --target=trn1 --framework=XLA {m} --output {o} --verbose=35",
    "torch-xla 2025": "compile --framework=XLA {m} --output {o} --target=trn1 --model-type=cnn-training -O1"
    " --enable-saturate-infinity --verbose=35",
    "jax": "compile --framework=XLA --target=trn1 --verbose=35 --enable-internal-neff-wrapper --output={o} {m}"
    " --model-type=transformer",
    "trace": "compile {m} --framework XLA --target trn1 --output {o} --lnc 2",
    "nxd": "compile --framework=XLA {m} --output {o} --target=trn1 --auto-cast=none --model-type=transformer"
    " |--tensorizer-options=--enable-ccop-compute-overlap --cc-pipeline-tiling-factor=1 --vectorize-strided-dma|"
    " --lnc=1 -O2 --logfile={w}/log-neuron-cc.txt --enable-internal-neff-wrapper",
    "torch-neuron": "compile {m} --framework XLA --target trn2 --lnc 2 -O1 --model-type transformer --auto-cast=none"
    " --output {o}",
    "vllm": "compile {m} --framework XLA --target trn1 --output {o} --logfile {w}/log-neuron-cc.txt",
    "zml": "compile --framework=XLA --target trn1 --verbose=info --enable-internal-neff-wrapper --output {o}"
    " --optlevel=1 --model-type=transformer --auto-cast=none --enable-fast-loading-neuron-binaries {m}",
    "short lnc": "compile {m} --target=trn2 -lnc 2 --output {o}",
    "json value": 'compile {m} --target=trn2 |--internal-dma-order-constraints={{"a": [1, 2]}}| -o {o}',
    "several words": "compile --framework=XLA {m} --output {o} --target=trn1 --fast-math none fp32-cast-all"
    " --tolerance 0.1 0.2",
    "fork option": "--no-fork-subcommand compile --framework=XLA {m} --output {o} --target=trn1",
}


def words(form, **paths):
    """Split a command line at spaces, but not between bars."""
    pieces = form.format(**paths).split("|")
    return [word for i, piece in enumerate(pieces) for word in ([piece] if i % 2 else piece.split())]


@pytest.mark.parametrize("caller", OBSERVED)
def test_each_observed_command_line_compiles_once_and_is_then_served(host, caller):
    model = host.model(f"{UUID}/model.MODULE_16518787498567201059+d41d8cd9.hlo_module.pb")
    made = []
    for name in ("first", "second"):
        folder = host.work / name
        folder.mkdir()
        output = folder / "out.neff"
        host.cc(*words(OBSERVED[caller], m=model, o=output, w=folder), cwd=folder)
        made.append(output.read_bytes())
    assert made[0] == made[1]
    assert len(host.runs) == 1
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert host.leftovers() == []


def test_a_path_with_spaces_and_other_alphabets(host):
    model = host.model("ein Ordner/模型 é.pb")
    for name in ("öut 1.neff", "öut 2.neff"):
        host.cc("compile", model, "--target=trn1", f"--output={host.work}/{name}")
    assert (host.work / "öut 1.neff").read_bytes() == (host.work / "öut 2.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_path_that_is_not_utf8(host):
    name = os.fsencode(host.work) + b"/\xff\xfe.pb"
    with open(name, "wb") as file:
        file.write(b"module")
    for _ in range(2):
        host.cc("compile", os.fsdecode(name), "--target=trn1", "--output=o.neff", LC_ALL="C")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_without_output_the_neff_goes_to_the_compilers_default_place(host):
    model = host.model("file.code")
    for name in ("a", "b"):
        (host.work / name).mkdir()
        host.cc("compile", model, "--target=trn1", cwd=host.work / name)
    assert (host.work / "a/file.neff").read_bytes() == (host.work / "b/file.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_relative_paths_are_those_of_the_callers_directory(host):
    for name in ("a", "b"):
        host.model(f"{name}/graph.hlo", data=b"module of " + name.encode())
        host.cc("compile", "graph.hlo", "--target", "trn1", "-o", "graph.neff", cwd=host.work / name)
    assert (host.work / "a/graph.neff").read_bytes() != (host.work / "b/graph.neff").read_bytes()
    assert host.counters() == {"miss_stored": 2}


def test_moving_everything_to_another_folder_is_still_a_hit(host):
    for name in ("here", "there"):
        model = host.model(f"{name}/x.hlo_module.pb")
        host.cc("compile", model, "--target=trn1", f"--output={model.parent}/x.neff", f"--logfile={model.parent}/log")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_an_unknown_option_before_the_model_does_not_hide_it(host):
    model = host.model()
    for _ in range(2):
        host.cc("compile", "--target=trn1", "--option-of-tomorrow", model, "--output=o.neff")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_the_served_neff_is_the_callers_own_to_edit(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=a.neff")
    host.cc("compile", model, "--target=trn1", "--output=b.neff")
    original = (host.work / "a.neff").read_bytes()
    for name in ("a.neff", "b.neff"):
        with open(host.work / name, "r+b") as file:
            file.write(b"EDITED")
    host.cc("compile", model, "--target=trn1", "--output=c.neff")
    assert (host.work / "c.neff").read_bytes() == original
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2}


def test_a_hit_replaces_what_was_at_the_output_and_obeys_the_umask(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=a.neff")
    (host.work / "b.neff").write_bytes(b"old")
    old = os.umask(0o027)
    try:
        host.cc("compile", model, "--target=trn1", "--output=b.neff")
    finally:
        os.umask(old)
    assert (host.work / "b.neff").read_bytes() == (host.work / "a.neff").read_bytes()
    assert (host.work / "b.neff").stat().st_mode & 0o777 == 0o640


def test_an_output_that_is_a_symbolic_link_is_followed(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=a.neff")
    (host.work / "scratch").mkdir()
    (host.work / "link.neff").symlink_to(host.work / "scratch/real.neff")
    host.cc("compile", model, "--target=trn1", "--output=link.neff")
    assert (host.work / "link.neff").is_symlink()
    assert (host.work / "scratch/real.neff").read_bytes() == (host.work / "a.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_stdout_and_stderr_are_replayed_byte_for_byte(host):
    model = host.model()
    told = '[["o","....\\u00ff\\u0000\\n"],["e","warning: x\\r"],["o","more"],["e","no newline"]]'
    first = host.cc("compile", model, "--target=trn1", "--output=a.neff", STANDIN_PRINT=told)
    second = host.cc("compile", model, "--target=trn1", "--output=b.neff")
    assert (first.stdout, first.stderr) == (second.stdout, second.stderr)
    assert first.stdout == b"....\xff\0\nmoreCompiler status PASS\n"
    assert first.stderr == b"warning: x\rno newline"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_text_is_replayed_in_the_order_in_which_it_was_captured():
    script = (
        "from neuron_store.shim.deliver import replay\n"
        "replay(b'one three four', b'TWO FIVE', 'o4 e4 o10')"  # what the order does not tell comes last
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert done.stdout == b"one TWO three fourFIVE"


def test_a_compiler_that_says_nothing_is_served_as_silently(host):
    host.compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo "NeuronX Compiler version 1.0+x"\necho >> {host.runs_file}\n'
        "echo made > o.neff\n"
    )
    model = host.model()
    for _ in range(2):
        done = host.cc("compile", model, "--target=trn1", "--output=o.neff")
        assert (done.stdout, done.stderr) == (b"", b"")
    assert host.runs_file.read_text() == "\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_long_captured_text_is_replayed_whole(host):
    model = host.model()
    first = host.cc("compile", model, "--target=trn1", "--output=a.neff", STANDIN_FLOOD=50)
    second = host.cc("compile", model, "--target=trn1", "--output=b.neff")
    assert len(first.stdout) > 50 * 65536
    assert first.stdout == second.stdout
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_reader_that_went_away_does_not_undo_a_hit(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=a.neff", STANDIN_FLOOD=20)
    process = host.start("compile", model, "--target=trn1", "--output=b.neff")
    process.stdout.close()
    process.stderr.close()
    assert process.wait(30) == 0
    assert (host.work / "b.neff").read_bytes() == (host.work / "a.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_closed_standard_streams_never_end_up_in_a_file_of_ours(host, closed):
    model = host.model()
    for name in ("a", "b"):
        line = f'neuronx-cc compile "{model}" --target=trn1 --output={name}.neff {closed}'
        subprocess.run(["/bin/sh", "-c", line], cwd=host.work, env=host.env, check=True)
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_the_wrapped_neff_is_restored_in_the_current_directory(host):
    model = host.model()
    for name in ("a", "b"):
        (host.work / name).mkdir()
        host.cc("compile", model, "--target=trn1", "--output=o.neff", cwd=host.work / name, STANDIN_WRAPPED="w")
    wrapped = (host.work / "a/wrapped_neff.hlo").read_bytes()
    assert wrapped.startswith(b"wrapped w")
    assert (host.work / "b/wrapped_neff.hlo").read_bytes() == wrapped
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_result_without_a_wrapped_neff_leaves_none_behind(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    (host.work / "wrapped_neff.hlo").write_bytes(b"of another compile")
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    assert not (host.work / "wrapped_neff.hlo").exists()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_wrapped_neff_that_the_compile_did_not_write_is_not_stored(host):
    model = host.model()
    (host.work / "wrapped_neff.hlo").write_bytes(b"of another compile")
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    other = host.work / "other"
    other.mkdir()
    host.cc("compile", model, "--target=trn1", "--output=o.neff", cwd=other)
    assert not (other / "wrapped_neff.hlo").exists()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_the_named_log_file_is_recreated(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=a.log", STANDIN_LOG="pass 1\npass 2\n")
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=b.log")
    assert (host.work / "b.log").read_text() == "pass 1\npass 2\n"
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    assert sorted(path.name for path in host.work.glob("*log*")) == ["a.log", "b.log"]
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2}


def test_where_it_is_not_known_whether_the_compiler_appends_to_its_log_nothing_in_one_is_lost(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=a.log", STANDIN_LOG="pass 1\n")
    (host.work / "b.log").write_text("of an earlier compile\n")
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=b.log")
    assert (host.work / "b.log").read_text() == "of an earlier compile\npass 1\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_log_file_that_the_compiler_overwrites_is_overwritten(host):
    model = host.model()
    shared = host.work / "shared.log"
    shared.write_text("of an earlier compile, with many lines\n" * 10)
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=shared.log", STANDIN_LOG="pass 1\n")
    shared.write_text("another day\n")
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=shared.log")
    assert shared.read_text() == "pass 1\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_log_file_that_the_compiler_appends_to_keeps_what_was_in_it(host):
    model = host.model()
    shared = host.work / "shared.log"
    shared.write_text("first module\n")
    telling = {"STANDIN_LOG": "second module\n", "STANDIN_LOG_MODE": "a"}
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=shared.log", **telling)
    shared.write_text("another day\n")
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=shared.log")
    assert shared.read_text() == "another day\nsecond module\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_log_file_is_there_even_if_the_result_has_none(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    host.cc("compile", model, "--target=trn1", "--output=o.neff", "--logfile=x.log")
    assert (host.work / "x.log").read_bytes() == b""


def test_a_hit_touches_the_result_for_lru(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    (record,) = [path for path in (host.store / "results").rglob("*") if path.is_file()]
    os.utime(record, (1, 1))
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    assert record.stat().st_mtime > 1e9


def test_a_large_compressible_output_is_stored_small_and_served_whole(host):
    model = host.model()
    size = 50_000_000
    for name in ("a", "b"):
        host.cc("compile", model, "--target=trn1", f"--output={name}.neff", STANDIN_SIZE=size, STANDIN_COMPRESSIBLE=1)
    assert (host.work / "b.neff").stat().st_size == size
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    stored = list((host.store / "blobs").rglob("*.zst"))
    assert max(path.stat().st_size for path in stored) < size / 100
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_large_output_that_does_not_shrink_is_stored_raw_and_served_whole(host):
    model = host.model()
    size = 20_000_000
    for name in ("a", "b"):
        host.cc("compile", model, "--target=trn1", f"--output={name}.neff", STANDIN_SIZE=size)
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    stored = [path for path in (host.store / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert [(path.suffix, path.stat().st_mode & 0o777) for path in stored] == [("", 0o444)]
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_recache_compiles_again_and_replaces_the_result(host):
    model = host.model()
    arguments = ("compile", model, "--target=trn1", "--output=o.neff")
    host.cc(*arguments)
    host.cc(*arguments, NEURON_STORE_RECACHE=1, STANDIN_SALT="new")
    renewed = (host.work / "o.neff").read_bytes()
    host.cc(*arguments)
    assert (host.work / "o.neff").read_bytes() == renewed
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}


def test_the_direct_key_is_recorded_again_from_the_result(host):
    model = host.model()
    arguments = ("compile", model, "--target=trn1", "--output=o.neff")
    host.cc(*arguments)
    for path in (host.store / "direct").rglob("*"):
        if path.is_file():
            path.unlink()
    host.cc(*arguments)
    host.cc(*arguments)
    assert host.counters() == {"miss_stored": 1, "hit_canonical": 1, "hit_direct": 1}


def test_a_direct_entry_whose_result_is_gone_is_not_served(host):
    model = host.model()
    arguments = ("compile", model, "--target=trn1", "--output=o.neff")
    host.cc(*arguments)
    for path in (host.store / "results").rglob("*"):
        if path.is_file():
            path.unlink()
    host.cc(*arguments)
    host.cc(*arguments)
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}
