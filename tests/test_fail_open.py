"""Whatever is wrong with neuron-store or its store, the compile happens and no wrong byte is served."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import other_users_can_run
from remote_setup import SAME, TIMES, compile_on, publish
from stock_setup import FLAGS, FOLDER, graph, module_name, stock_files

import neuron_store.hashing
import neuron_store.shim
import neuron_store.store

COMPILE = ("compile", "--framework=XLA", "--target=trn1", "--output=o.neff")
FLOORS = {floor.__name__.split(".")[-1]: floor.__path__[0] for floor in
          (neuron_store.hashing, neuron_store.shim, neuron_store.store)}  # fmt: skip
# What only the command line and the uploader use, not the shim.
NOT_OF_THE_SHIM = {
    *(f"hashing/{name}.py" for name in
      ("alignment", "hlo_comparison", "hlo_difference", "hlo_outline", "hlo_pairing", "hlo_words")),
    "shim/counters.py", "shim/launcher.py",
    *(f"store/{name}.py" for name in ("event_tail", "upload_batch", "upload_line", "uploader", "usage")),
}  # fmt: skip
# What only runs where there is a remote.
REMOTE_MODULES = [
    *(f"store/remotes/{name}.py" for name in
      ("base", "child", "content_digest", "fetch", "folder", "http_connect", "http_reader", "hub", "location", "opening", "private_names", "records",
       "state", "stored_bytes")),
    "shim/background.py", "shim/remote_hits.py", "shim/upload_queue.py", "store/queue.py", "store/upload_lock.py",
]  # fmt: skip
# What only runs where a file name carries a module.
STOCK_MODULES = ["shim/stock_hits.py", "shim/stock_key.py", "store/stock/flags.py", "store/stock/names.py"]
# What only runs where the environment names a model, and only the shim's part of it.
CONTEXT_MODULES = ["shim/model_context.py", "store/registry/contexts.py"]
MODULES = sorted(
    f"{floor}/{path.name}"
    for floor, folder in FLOORS.items()
    for path in Path(folder).glob("*.py")
    if f"{floor}/{path.name}" not in NOT_OF_THE_SHIM
)


def stored_files(host, *folders):
    return sorted(path for folder in folders for path in (host.store / folder).rglob("*") if path.is_file())


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << (position % 8)
    path.chmod(0o644)
    path.write_bytes(data)


INCIDENT = {"direct": {"corrupt_direct"}, "results": {"corrupt_result"}, "blobs": {"corrupt_blob"}}


@pytest.mark.parametrize("size", [2_000, 9_000_000, 40_000_000])
@pytest.mark.parametrize("compressible", [0, 1])
def test_a_flipped_bit_in_the_neff_is_a_miss_and_is_replaced(host, size, compressible):
    model = host.model()
    told = {"STANDIN_SIZE": size, "STANDIN_COMPRESSIBLE": compressible or None}
    host.cc(*COMPILE, model, **told)
    original = (host.work / "o.neff").read_bytes()
    dice = random.Random(size)
    for number in range(3):
        (host.work / "o.neff").unlink()
        blob = max(
            stored_files(host, "blobs"), key=lambda path: path.stat().st_size if path.suffix or size > 3000 else 0
        )
        flip(blob, dice.randrange(blob.stat().st_size))
        host.cc(*COMPILE, model, **told)
        assert (host.work / "o.neff").read_bytes() == original
        assert host.counters().get("corrupt_blob", 0) == number + 1 - host.counters().get("hit_direct", 0)
    host.cc(*COMPILE, model, **told)
    assert host.leftovers() == []


@pytest.mark.parametrize("folder", ["direct", "results"])
def test_every_flipped_byte_of_an_entry_is_noticed(host, folder):
    model = host.model()
    host.cc(*COMPILE, model)
    original = (host.work / "o.neff").read_bytes()
    (entry,) = stored_files(host, folder)
    good = entry.read_bytes()
    dice = random.Random(3)
    rounds = 25
    for _ in range(rounds):
        if folder == "results":
            for path in stored_files(host, "direct"):
                path.unlink()
        flip(entry, dice.randrange(len(good)))
        host.cc(*COMPILE, model)
        assert (host.work / "o.neff").read_bytes() == original
    counters = host.counters()
    if folder == "direct":
        assert counters == {"miss_stored": 1, "corrupt_direct": rounds, "hit_canonical": rounds}
    else:
        assert counters == {"miss_stored": 1 + rounds, "corrupt_result": rounds}


@pytest.mark.parametrize("folder", ["direct", "results", "blobs", "compilers"])
@pytest.mark.parametrize("size", [0, 10, 40])
def test_a_torn_file_is_a_miss(host, folder, size):
    model = host.model()
    host.cc(*COMPILE, model)
    original = (host.work / "o.neff").read_bytes()
    for path in stored_files(host, folder):
        path.chmod(0o644)
        with open(path, "r+b") as file:
            file.truncate(size)
    host.cc(*COMPILE, model)
    host.cc(*COMPILE, model)
    assert (host.work / "o.neff").read_bytes() == original
    counters = host.counters()
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) + counters.pop("miss_stored") == 3
    assert set(counters) <= {"corrupt_direct", "corrupt_result", "corrupt_blob"}


def test_a_blob_that_is_gone_is_a_miss(host):
    model = host.model()
    host.cc(*COMPILE, model)
    shutil.rmtree(host.store / "blobs")
    host.cc(*COMPILE, model)
    host.cc(*COMPILE, model)
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1, "missing_blob": 1}


def test_folders_where_files_should_be_do_no_harm(host):
    model = host.model()
    host.cc(*COMPILE, model)
    for path in stored_files(host, "direct", "results", "compilers"):
        path.unlink()
        path.mkdir()
    host.cc(*COMPILE, model)
    assert len(host.runs) == 2
    counters = host.counters()
    assert counters == {"miss_stored": 1, "miss_store_failed": 1, "store_fault": 4}
    assert "store" in host.log_file.read_text()


@pytest.mark.parametrize("place", ["results", "direct", "blobs", "locks", "tmp", "events", "compilers"])
def test_a_file_where_a_folder_should_be_does_no_harm(host, place):
    host.store.mkdir()
    (host.store / place).write_text("in the way")
    for _ in range(2):
        host.cc(*COMPILE, host.model())
    assert 1 <= len(host.runs) <= 2
    counters = host.counters()
    assert sum(counters.get(name, 0) for name in
               ("miss_stored", "miss_store_failed", "hit_direct", "hit_canonical", "pass_no_writable_store")) == 2  # fmt: skip


def under_mount(prefix, mount, host, script, **extra):
    done = subprocess.run(
        [*prefix, "/bin/sh", "-ec", mount + "\n" + script],
        cwd=host.work,
        env=host.environ(extra),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_full_disk_does_not_stop_the_compile(host, mount_namespace):
    host.store.mkdir()
    model = host.model()
    line = " ".join(["neuronx-cc", *COMPILE, f"'{model}'"])
    under_mount(
        mount_namespace,
        f"mount -t tmpfs -o size=200k none {host.store}",
        host,
        f"{line}\n{line}\ncp -r {host.store}/. {host.base}/seen\nls {host.store}/tmp >&2",
        STANDIN_SIZE=3_000_000,
    )
    assert len(host.runs) == 2
    assert (host.work / "o.neff").stat().st_size == 3_000_000
    shutil.copytree(host.base / "seen", host.store, dirs_exist_ok=True)
    assert host.counters() == {"miss_store_failed": 2}
    assert "No space left on device" in host.log_file.read_text()
    assert host.leftovers() == []


def test_a_disk_without_room_for_a_single_file_does_not_stop_the_compile(host, mount_namespace):
    host.store.mkdir()
    line = " ".join(["neuronx-cc", *COMPILE, f"'{host.model()}'"])
    under_mount(mount_namespace, f"mount -t tmpfs -o nr_inodes=1 none {host.store}", host, f"{line}\n{line}")
    assert len(host.runs) == 2
    assert host.counters() == {"pass_no_writable_store": 2}


def test_a_read_only_store_serves_what_it_has_and_lets_the_rest_compile(host, mount_namespace):
    known, unknown = host.model("a.pb", b"one"), host.model("b.pb", b"two")
    host.cc(*COMPILE, known)
    lines = [" ".join(["neuronx-cc", *COMPILE, f"'{model}'"]) for model in (known, unknown, known)]
    under_mount(
        mount_namespace,
        f"mount --bind {host.store} {host.store}\nmount -o remount,ro,bind {host.store}",
        host,
        "\n".join(lines),
    )
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2, "pass_no_writable_store": 1}


@pytest.fixture
def damaged(host, tmp_path):
    """Return a function that makes a copy of the installation with a fault in one module, and a launcher for it."""
    copy = tmp_path / "installation"
    for floor, folder in FLOORS.items():
        shutil.copytree(folder, copy / floor, ignore=shutil.ignore_patterns("__pycache__"))

    def make(module, change):
        path = copy / module
        path.write_text(change(path.read_text()))
        text = host.launcher.read_text().replace(repr([str(Path(FLOORS["shim"]).resolve().parent)]), repr([str(copy)]))
        assert str(copy) in text
        host.launcher = tmp_path / "damaged/neuronx-cc"
        host.launcher.parent.mkdir()
        host.launcher.write_text(text)
        host.launcher.chmod(0o755)
        host.env["PATH"] = f"{host.launcher.parent}:{host.compiler.parent}:/usr/bin:/bin"

    return make


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("code", [0, 70])
def test_a_module_that_cannot_be_imported_does_not_stop_the_compile(host, damaged, module, code):
    damaged(module, lambda text: "raise RuntimeError('damaged')\n")
    done = host.cc(*COMPILE, host.model(), check=False, STANDIN_EXIT=code)
    assert done.returncode == code, done.stderr
    assert len(host.runs) == 1
    assert b"Traceback" not in done.stderr


def functions(modules):
    """Every function and method of some modules: (module, name, line of its body)."""
    import ast

    for module in modules:
        floor, _, name = module.partition("/")
        for node in ast.walk(ast.parse((Path(FLOORS[floor]) / name).read_text())):
            if isinstance(node, ast.FunctionDef):
                yield module, node.name, node.body[0].lineno


def insert_fault(text, line):
    lines = text.split("\n")
    indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
    return "\n".join([*lines[: line - 1], f"{indent}raise RuntimeError('injected')", *lines[line - 1 :]])


@pytest.mark.parametrize(
    ("module", "name", "line"),
    list(functions(sorted(set(MODULES) - {*REMOTE_MODULES, *STOCK_MODULES, *CONTEXT_MODULES}))),
)
def test_a_fault_in_any_function_neither_stops_nor_repeats_the_compile(host, damaged, module, name, line):
    model = host.model()
    damaged(module, lambda text: insert_fault(text, line))
    for number in (1, 2):
        (host.work / "o.neff").unlink(missing_ok=True)
        done = host.cc(*COMPILE, model, check=False, STANDIN_PRINT='[["o","...."]]')
        assert done.returncode == 0, done.stderr
        assert len((host.work / "o.neff").read_bytes()) == 2000
        assert len(host.runs) <= number
        if (module, name) not in {("shim/relay.py", "add"), ("shim/relay.py", "write_one")}:  # what they had is lost
            assert done.stdout == b"....Compiler status PASS\n" or len(host.runs) < number
    done = host.cc(*COMPILE, model, check=False, STANDIN_EXIT=70, NEURON_STORE_RECACHE=1)
    assert done.returncode == 70


@pytest.fixture
def served(host, make_host, tmp_path, hub):
    """A host with a writable folder that lacks the result, and after it a Hub that has it; and the NEFF."""
    maker = make_host("maker")
    neff = compile_on(maker, **SAME)
    publish(maker, "hf://alice/cache", hub)
    (tmp_path / "shared").mkdir()
    host.use_remotes(f"file://{tmp_path}/shared", "hf://alice/cache", hub=hub)
    host.env |= TIMES | {"NEURON_STORE_UPLOAD": "0"}
    return host, neff


@pytest.mark.parametrize(("module", "name", "line"), list(functions(REMOTE_MODULES)))
def test_a_fault_in_any_function_of_remotes_is_a_miss_at_worst(served, damaged, module, name, line):
    host, neff = served
    damaged(module, lambda text: insert_fault(text, line))
    assert compile_on(host, **SAME) == neff
    assert compile_on(host, data=b"\x0a\x04main another", **SAME) != neff
    assert 1 <= len(host.runs) <= 2
    counted = host.counters()
    ways = ("error_internal", "miss_stored", "miss_store_failed")
    assert len(host.runs) == sum(counted.get(way, 0) for way in ways)


@pytest.mark.parametrize(("module", "name", "line"), list(functions(STOCK_MODULES)))
def test_a_fault_in_any_function_of_stock_caches_is_a_miss_at_worst(host, hub, damaged, module, name, line):
    hub.put_files("alice/cache", stock_files(FOLDER, graph(), neff=b"a NEFF of the stock cache"))
    host.use_remotes("hf://alice/cache|read-only", hub=hub)
    damaged(module, lambda text: insert_fault(text, line))
    model = host.model(f"model.{module_name(graph(), list(FLAGS))}.hlo_module.pb", graph())
    host.cc("compile", "--framework=XLA", model, "--output=o.neff", *FLAGS)
    served = (host.work / "o.neff").read_bytes() == b"a NEFF of the stock cache"
    assert len(host.runs) == (0 if served else 1)
    counted = host.counters()
    assert counted == {"hit_stock": 1} if served else counted.get("miss_stored") == 1


@pytest.mark.parametrize(("module", "name", "line"), list(functions(CONTEXT_MODULES)))
def test_a_fault_in_what_notes_a_models_keys_costs_only_the_note(host, damaged, tmp_path, module, name, line):
    (tmp_path / "shared").mkdir()
    host.use_remotes(f"file://{tmp_path}/shared|read-only")
    host.env["NEURON_STORE_MODEL"] = "acme/tiny"
    damaged(module, lambda text: insert_fault(text, line))
    host.cc(*COMPILE, host.model())
    (host.work / "o.neff").unlink()
    host.cc(*COMPILE, host.model())
    assert len((host.work / "o.neff").read_bytes()) == 2000
    assert len(host.runs) == 1
    counted = host.counters()
    counted.pop("context_failed", None)
    assert counted == {"miss_stored": 1, "hit_direct": 1}


def test_a_fault_of_ours_is_in_the_log_and_counted(host, damaged):
    damaged(
        "hashing/keys.py",
        lambda text: text.replace('    hasher = _KeyHasher(b"direct")', "    raise ValueError('odd')"),
    )
    host.cc(*COMPILE, host.model())
    assert host.counters() == {"error_internal": 1}
    log = host.log_file.read_text()
    assert "ValueError: odd" in log
    assert "Traceback" in log


def test_a_hit_that_cannot_be_written_runs_the_compiler(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    done = host.cc("compile", model, "--target=trn1", "--output=absent/o.neff", check=False)
    assert done.returncode != 0
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 1, "error_output": 1}


def test_a_store_owned_by_someone_else(open_host):
    host = open_host
    if os.geteuid():
        pytest.skip("needs root, to make a store that belongs to another user")
    if not other_users_can_run(host.launcher):
        pytest.skip("the interpreter of these tests is closed to other users")
    known, unknown = host.model("a.pb", b"one"), host.model("b.pb", b"two")
    host.cc(*COMPILE, known)
    for path in (host.work, host.home, host.runs_file):
        path.chmod(0o777)
    (host.work / "o.neff").unlink()
    for model in (known, unknown):
        done = subprocess.run(
            ["neuronx-cc", *COMPILE, model],
            executable=host.launcher,
            cwd=host.work,
            env=host.env,
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        (host.work / "o.neff").unlink()
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1, "pass_no_writable_store": 1}
