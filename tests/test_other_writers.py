"""Outputs, compilers and side files that others change meanwhile are never stored as this compile's own."""

import os
import subprocess
import sys
import time

import pytest

COMPILE = ("compile", "--framework=XLA", "--target=trn1")


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


@pytest.fixture
def slow(host):
    """Start a compile of a.pb that has written its output and goes on living until it is let go."""
    written, go = host.base / "written", host.base / "go"
    host.compiler.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys, time\n"
        "if '--version' in sys.argv: print('NeuronX Compiler version ' + os.environ.get('V', '1.0+x')); sys.exit()\n"
        "model = next(a for a in sys.argv if a.endswith('.pb'))\n"
        "out = next((a[9:] for a in sys.argv if a.startswith('--output=')), 'file.neff')\n"
        "made = 'NEFF of ' + open(model).read() + ' by ' + os.environ.get('V', '1.0+x')\n"
        "if not os.environ.get('NOTHING'): open(out, 'w').write(made)\n"
        "if os.environ.get('WRAPPED'): open('wrapped_neff.hlo', 'w').write(os.environ['WRAPPED'])\n"
        "for a in sys.argv:\n"
        "    if a.startswith('--dump-to='): open(a[10:], 'w').write('dump')\n"
        f"if model.endswith('a.pb') and not os.path.exists({str(go)!r}):\n"
        f"    open({str(written)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    )
    host.model("a.pb", b"AAAA")
    host.model("b.pb", b"BBBB")

    def run(*arguments, **extra):
        process = host.start(*COMPILE, "a.pb", *arguments, **extra)
        wait_for(written)

        def finish():
            go.touch()
            process.communicate(timeout=60)
            assert process.returncode == 0
            fresh = host.work / "fresh"
            fresh.mkdir()
            (fresh / "a.pb").write_bytes(b"AAAA")
            host.cc(*COMPILE, "a.pb", *arguments, cwd=fresh)
            return fresh

        return finish

    return run


def test_another_compile_to_the_same_output(host, slow):
    finish = slow()
    host.cc(*COMPILE, "b.pb")
    assert (finish() / "file.neff").read_text() == "NEFF of AAAA by 1.0+x"
    assert host.counters() == {"miss_shared_directory": 1, "miss_output_changed": 1, "miss_stored": 1} or (
        host.counters() == {"miss_shared_directory": 2, "miss_stored": 1}
    )


def test_a_hit_to_the_same_output(host, slow):
    other = host.work / "other"
    other.mkdir()
    (other / "b.pb").write_bytes(b"BBBB")
    host.cc(*COMPILE, "b.pb", cwd=other)
    finish = slow()
    host.cc(*COMPILE, "b.pb")
    assert (finish() / "file.neff").read_text() == "NEFF of AAAA by 1.0+x"
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1, "miss_shared_directory": 1}


@pytest.mark.parametrize("way", ["hit", "pass", "disabled"])
def test_another_invocation_that_leaves_a_wrapped_neff_in_the_same_directory(host, slow, way):
    other = host.work / "other"
    other.mkdir()
    (other / "b.pb").write_bytes(b"BBBB")
    if way == "hit":
        host.cc(*COMPILE, "b.pb", "--output=b.neff", cwd=other, WRAPPED="of b")
    finish = slow("--output=a.neff")
    extra = {"pass": ["--pipeline", "compile"]}.get(way, [])
    host.cc(
        *COMPILE, "b.pb", "--output=b.neff", *extra, WRAPPED="of b", NEURON_STORE_ENABLED=0 if way == "disabled" else 1
    )
    fresh = finish()
    assert not (fresh / "wrapped_neff.hlo").exists()
    assert host.counters().pop("miss_shared_directory") == 1


def test_a_hit_does_not_delete_the_wrapped_neff_of_a_compile_that_runs(host, slow):
    other = host.work / "other"
    other.mkdir()
    (other / "b.pb").write_bytes(b"BBBB")
    host.cc(*COMPILE, "b.pb", "--output=b.neff", cwd=other)
    finish = slow("--output=a.neff", WRAPPED="of a")
    host.cc(*COMPILE, "b.pb", "--output=b.neff")
    assert (host.work / "wrapped_neff.hlo").read_text() == "of a"
    finish()


def test_a_compiler_replaced_while_it_ran(host, slow):
    finish = slow("--output=a.neff")
    text = host.compiler.read_text()
    host.compiler.unlink()
    host.compiler.write_text(text)
    host.compiler.chmod(0o755)
    finish()
    assert host.counters() == {"miss_compiler_changed": 1, "miss_stored": 1}


def test_a_waiter_does_not_store_what_a_new_compiler_made_under_the_old_ones_key(host, slow):
    finish = slow("--output=a.neff")
    waiter = host.start(*COMPILE, "a.pb", "--output=w.neff", V="2.0+y", NEURON_STORE_LOCK_TIMEOUT=1)
    time.sleep(0.5)  # it has identified the compiler and waits
    text = host.compiler.read_text()
    host.compiler.unlink()
    host.compiler.write_text(text)
    host.compiler.chmod(0o755)
    time.sleep(1)
    (host.base / "go").touch()
    waiter.communicate(timeout=60)
    fresh = finish()
    assert (fresh / "a.neff").read_text() == "NEFF of AAAA by 1.0+x"


def test_an_output_that_changes_after_the_compile_is_not_stored(host):
    model = host.model()
    host.compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo "NeuronX Compiler version 1.0+x"\n'
        "head -c 60000000 /dev/urandom > o.neff\n(i=0; while [ $i -lt 40 ]; do i=$((i+1)); sleep 0.02; "
        "echo more >> o.neff; done) > /dev/null 2>&1 < /dev/null &\n"
    )
    host.cc(*COMPILE, model, "--output=o.neff")
    counters = host.counters()
    assert set(counters) <= {"miss_output_changed", "miss_store_failed"}
    assert sum(counters.values()) == 1


def test_an_option_that_makes_a_file_is_not_served_without_it(host, slow):
    (host.base / "go").touch()
    for _ in range(2):
        (host.work / "dump").unlink(missing_ok=True)
        host.cc(*COMPILE, "a.pb", "--output=a.neff", "--dump-to=dump")
        assert (host.work / "dump").exists()
    assert host.counters() == {"miss_side_output": 2}


def test_an_old_output_whose_attributes_change_is_not_new(host, slow):
    (host.base / "go").touch()
    (host.work / "a.neff").write_bytes(b"old")
    host.compiler.write_text(host.compiler.read_text() + "os.chmod('a.neff', 0o600)\n")
    host.cc(*COMPILE, "a.pb", "--output=a.neff", NOTHING=1)
    assert host.counters() == {"miss_no_output": 1}


def test_a_parent_that_reads_its_children_one_after_the_other(host):
    """The one who compiles prints more than a pipe holds, to a parent that waits for one who waits for it."""
    model = host.model()
    started = host.base / "started"
    told = {"STANDIN_FLOOD": 20, "STANDIN_SLEEP": 1}
    compiling = host.start(*COMPILE, model, "--output=q.neff", STANDIN_STARTED=started, **told)
    wait_for(started)
    waiting = host.start(*COMPILE, model, "--output=p.neff", **told)
    assert len(waiting.communicate(timeout=60)[0]) > 20 * 65536
    assert len(compiling.communicate(timeout=60)[0]) > 20 * 65536
    assert (compiling.returncode, waiting.returncode) == (0, 0)
    assert len(host.runs) == 1


def test_a_reader_that_went_away_is_the_compilers_to_notice(host):
    process = host.start(*COMPILE, host.model(), "--output=o.neff", STANDIN_FLOOD=2000)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) != 0
    assert host.counters() == {"miss_failed": 1}


def test_a_daemon_that_goes_on_printing_does_not_hold_the_caller(host):
    host.compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo "NeuronX Compiler version 1.0+x"\n'
        "echo made > o.neff\n(i=0; while [ $i -lt 300 ]; do i=$((i+1)); sleep 0.1; echo still here; done) &\n"
    )
    begun = time.monotonic()
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert time.monotonic() - begun < 20
    assert host.counters() == {"miss_output_open": 1}


def test_a_version_query_that_leaves_a_process_behind_is_answered_at_once(host):
    host.compiler.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then sleep 100 & echo "NeuronX Compiler version 1.0+x"; exit; fi\n'
        "echo made > o.neff\n"
    )
    begun = time.monotonic()
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert time.monotonic() - begun < 30
    assert host.counters() == {"miss_stored": 1}


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd to do without")
def test_without_a_pidfd_the_end_of_the_compiler_is_noticed_all_the_same(host):
    script = (
        "import os, sys\n"
        "del os.pidfd_open\n"
        "from neuron_store.shim.run_compiler import Capture, Run, run_compiler\n"
        "run, capture = Run(), Capture(None, 1 << 20)\n"
        "run_compiler(sys.argv[1], sys.argv[2:], dict(os.environ), capture, run)\n"
        "run.flush()\n"
        "print(run.code, run.streams_ended, capture.interleave)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, host.compiler, *COMPILE, host.model(), "--output=o.neff"],
        cwd=host.work,
        env={**host.env, "STANDIN_EXIT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 True o21"


def test_a_current_directory_that_is_gone_is_no_hindrance(host):
    model = host.model()
    line = f'mkdir gone; cd gone; rmdir ../gone; exec neuronx-cc compile "{model}" --target=trn1 --output={host.work}/o.neff'
    environ = {**host.env, "STANDIN_RUNS": ""}
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", line], cwd=host.work, env=environ, check=True, capture_output=True)
    assert (host.work / "o.neff").exists()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
