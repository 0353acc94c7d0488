"""`neuron-store add`: what a model needs is compiled, pushed and registered, or nothing is run at all."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from cli_remotes import FLAGS, USERS, answer, compile_modules, connect, end_uploaders, ns
from environments import make_venv
from loopback_hub import Status, start_hub
from test_sessions import install

from neuron_store.cli.export_session import has_neuron_device
from neuron_store.store.results import all_keys

CONFIG = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 100}
TASK = ("--task", "text-classification")


@pytest.fixture
def hub():
    with start_hub(users=USERS) as hub:
        hub.create_repo("alice/cache", private=True)
        yield hub


@pytest.fixture
def online(host, hub):
    make_model(host)
    yield connect(host, hub)
    end_uploaders(host)


def make_model(host, **changes):
    folder = host.work / "tiny-bert"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def compiling(host, *numbers, after=""):
    """A command that compiles the modules of these numbers."""
    lines = []
    for number in numbers:
        module = host.model(f"model{number}.pb", b"\x0a\x04main HLO %d" % number)
        lines.append(shlex.join(["neuronx-cc", "compile", *FLAGS, str(module)]))
    return ["sh", "-ec", "\n".join([*lines, after or "true"])]


def add(host, *words, code=0, **extra):
    return ns(host, "add", *words, code=code, **extra)


def refused(host, hub, *words, code=1, **extra):
    """Fail before anything is run; return what is said."""
    commits = len(hub.commits("alice/cache"))
    said = add(host, *words, *([] if "--" in words else ["--", "touch", "ran"]), code=code, **extra).stderr
    assert not (host.work / "ran").exists()
    assert len(hub.commits("alice/cache")) == commits
    assert host.runs == []
    return said.removeprefix("neuron-store: ")


def entries(hub, repo="alice/cache"):
    """The entries of a registry: path -> entry."""
    paths = [path for path in hub.files(repo) if "/0_REGISTRY/" in path]
    return {path: json.loads(hub.files(repo)[path]) for path in paths}


def records(hub, repo="alice/cache"):
    return sorted(path[-37:-5] for path in hub.files(repo) if "/0_RESULTS/" in path)


# -- what is added -------------------------------------------------------------------------------------------------


def test_a_command_is_run_and_its_results_and_entry_are_on_the_hub(online, hub):
    done = add(online, "-m", "tiny-bert", *TASK, "--batch_size", 2, "--", *compiling(online, 1, 2, 3, 1))
    keys = list(all_keys(online.layout))
    assert records(hub) == sorted(keys)
    assert len(keys) == 3
    assert done.stdout.endswith(
        "added 3 keys (3 compiled, 0 hits) of local/tiny-bert to hf://alice/cache: 3 of 3 present\n"
    )
    made = entries(hub)
    assert len({path.rpartition("/")[2] for path in made}) == 1
    for entry in made.values():
        assert sorted(entry["neuron_store"]["keys"]) == sorted(keys)
        assert entry["neuron"]["batch_size"] == 2
        assert entry["neuron"]["task"] == entry["_task"] == "text-classification"


def test_streams_and_arguments_of_the_command_are_its_own(online):
    script = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.stderr.write('mine\\n')"
    after = shlex.join([sys.executable, "-c", script, "--batch_size", "-m", "--", "x y"])
    done = subprocess.run(
        [sys.executable, "-m", "neuron_store.cli", "add", "-m", "tiny-bert", *TASK, *compiling(online, 1, after=after)],
        cwd=online.work,
        env=online.env,
        input="from the caller",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "['--batch_size', '-m', '--', 'x y'] from the caller\n" in done.stdout
    assert done.stderr == "mine\n"


def test_hits_count_and_old_results_that_the_remote_lacks_are_pushed_too(online, hub):
    old = compile_modules(online, 2, NEURON_STORE_REMOTES="none")
    assert records(hub) == []
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 0, 1, 2))
    assert "added 3 keys (1 compiled, 2 hits) of " in done.stdout
    assert done.stdout.endswith(": 3 of 3 present\n")
    assert set(old) < set(records(hub))


def test_adding_twice_changes_nothing_on_the_hub(online, hub):
    words = ("-m", "tiny-bert", *TASK, "--", *compiling(online, 1, 2))
    add(online, *words)
    before = hub.files("alice/cache")
    done = add(online, *words)
    assert "added 2 keys (0 compiled, 2 hits) of local/tiny-bert to hf://alice/cache: 2 of 2 present\n" in done.stdout
    assert hub.files("alice/cache") == before
    assert {len(entry["neuron_store"]["keys"]) for entry in entries(hub).values()} == {2}


def test_another_host_adds_to_the_same_entry(online, hub, make_host):
    add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 1, 2))
    other = connect(make_host("other"), hub)
    make_model(other)
    done = add(other, "-m", "tiny-bert", *TASK, "--", *compiling(other, 2, 3))
    assert "added 2 keys (1 compiled, 1 hit) of " in done.stdout
    assert {len(entry["neuron_store"]["keys"]) for entry in entries(hub).values()} == {3}


def test_the_summary_as_json(online, hub):
    said = add(online, "-m", "tiny-bert", *TASK, "--json", "--", *compiling(online, 1), STANDIN_PRINT="[]").stdout
    summary = json.loads(said[said.index("{") :])
    (key,) = all_keys(online.layout)
    assert summary["model"] == "local/tiny-bert"
    assert (summary["keys"], summary["compiled"], summary["hits"], summary["uncached"]) == ([key], 1, 0, {})
    assert (summary["push"]["left"], summary["push"]["entries_left"]) == (0, 0)
    assert summary["remotes"] == [
        {"url": "hf://alice/cache", "present": 1, "elsewhere": [], "absent": [], "registered": True}
    ]


def test_an_uploader_in_the_background_does_not_get_in_the_way(online, hub):
    quick = {"NEURON_STORE_UPLOAD": "true", "NEURON_STORE_UPLOAD_QUIET": 0.05, "NEURON_STORE_UPLOAD_MAX_AGE": 0.1}
    for numbers in ([1], [2, 3], [3, 4, 5]):
        command = compiling(online, *numbers, after="sleep 0.4")
        done = add(online, "-m", "tiny-bert", *TASK, "--", *command, **quick)
        assert done.stdout.endswith(f": {len(numbers)} of {len(numbers)} present\n")
    assert {len(entry["neuron_store"]["keys"]) for entry in entries(hub).values()} == {5}
    assert len(records(hub)) == 5


def test_compiles_that_cannot_be_shared_are_told(online, hub):
    after = "neuronx-cc compile --pipeline compile SaveTemps model1.pb --output=p.neff"
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 1, after=after))
    assert "added 1 key (1 compiled, 0 hits)" in done.stdout
    assert re.search(
        r": 1 compile is done again by every run, for nothing of it can be shared \(1 pass_pipeline; see `neuron-store stats`\)\n",
        done.stderr,
    )


def test_the_task_is_the_models_own_where_none_is_given(online, hub):
    add(online, "-m", "tiny-bert", "--", *compiling(online, 1))
    assert {entry["_task"] for entry in entries(hub).values()} == {"text-classification"}


def test_both_spellings_of_the_seeds_options_say_the_same(online):
    names = ["train_batch_size", "eval_batch_size", "encoder_sequence_length", "decoder_sequence_length"]
    names += ["gradient_accumulation_steps", "num_cores", "max_steps"]
    said = []
    for spell in (lambda name: name, lambda name: name.replace("_", "-")):
        words = [word for name in names for word in (f"--{spell(name)}", "4")]
        words += ["--precision", "bf16", "--task", "translation"]
        done = add(online, "-m", "tiny-bert", *words, f"--{spell('dry_run')}", "--json", "--", "true")
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
    assert said[0]["command"] == ["true"]
    assert said[0]["variables"] == {
        "NEURON_STORE_MODEL": str(online.work / "tiny-bert"),
        "NEURON_STORE_MODEL_TASK": "text2text-generation",
        "NEURON_STORE_MODEL_BATCH_SIZE": "4",
        "NEURON_STORE_MODEL_NUM_CORES": "4",
        "NEURON_STORE_MODEL_AUTO_CAST_TYPE": "bf16",
        "NEURON_STORE_MODEL_DTYPE": "bfloat16",
        "NEURON_STORE_MODEL_TENSOR_PARALLEL_SIZE": "1",
        "NEURON_STORE_MODEL_SET": "decoder_sequence_length=4 encoder_sequence_length=4 eval_batch_size=4 "
        "gradient_accumulation_steps=4 train_batch_size=4",
    }


# -- other remotes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--repo", "--repo_id", "--repo-id"])
def test_another_repo_can_be_named(online, hub, option):
    hub.create_repo("alice/other")
    done = add(online, "-m", "tiny-bert", *TASK, option, "alice/other", "--", *compiling(online, 1))
    assert done.stdout.endswith(" to hf://alice/other: 1 of 1 present\n")
    assert len(records(hub, "alice/other")) == 1
    assert entries(hub, "alice/other")
    assert (records(hub), entries(hub)) == ([], {})


def test_every_writable_remote_gets_it(online, hub, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    online.env["NEURON_STORE_REMOTES"] = f"hf://alice/cache file://{folder}"
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 1))
    urls = re.findall(r" to (\S+): 1 of 1 present", done.stdout)
    assert urls == ["hf://alice/cache", f"file://{folder}"]
    assert list(folder.rglob("0_REGISTRY"))


def test_what_came_from_a_remote_is_not_passed_on_to_another_as_ours(online, hub):
    hub.create_repo("alice/theirs")
    compile_modules(online, 1)
    ns(online, "synchronize", "--repo_id", "alice/theirs")
    online.store.rename(online.base / "old store")
    online.env["NEURON_STORE_REMOTES"] = "hf://alice/theirs|read-only hf://alice/cache"
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 0, 1))
    assert "added 2 keys (1 compiled, 1 hit) of local/tiny-bert to hf://alice/cache: 1 of 2 present\n" in done.stdout
    assert "1 result came from another remote, and hf://alice/cache does not get it from us" in done.stderr


# -- requirements --------------------------------------------------------------------------------------------------


def test_a_token_that_may_only_read_is_refused_before_anything_runs(online, hub):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, HF_TOKEN="hf_reader", NEURON_STORE_REMOTES="hf://alice/open")
    assert "hf://alice/open" in said
    hub.create_repo("alice/open")
    said = refused(online, hub, "-m", "tiny-bert", *TASK, HF_TOKEN="hf_reader", NEURON_STORE_REMOTES="hf://alice/open")
    assert said.startswith("hf://alice/open cannot be written to by us, so nothing is run: ")
    said = refused(online, hub, "-m", "tiny-bert", *TASK, HF_TOKEN="hf_bob", NEURON_STORE_REMOTES="hf://alice/open")
    assert said.startswith("hf://alice/open cannot be written to by us, so nothing is run: ")


def test_a_repo_that_is_not_there_is_refused(online, hub):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, "--repo", "alice/absent")
    assert said.startswith("hf://alice/absent cannot be ")
    said = refused(online, hub, "-m", "tiny-bert", *TASK, "--repo", "no repo", code=2)
    assert "is no remote" in said


def test_a_read_only_remote_is_refused(online, hub):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, NEURON_STORE_REMOTES="hf://alice/cache|read-only")
    assert said.startswith("there is no remote to push to: hf://alice/cache is read-only")
    said = refused(online, hub, "-m", "tiny-bert", *TASK, "--repo", "hf://alice/cache|read-only", code=2)
    assert said == "hf://alice/cache|read-only is read-only, so nothing can be added to it\n"


def test_no_remote_is_refused(online, hub):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, NEURON_STORE_REMOTES="none")
    assert said == "no remote is used, because NEURON_STORE_REMOTES is none\n"


def test_offline_is_refused(online, hub):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in said
    said = refused(online, hub, "-m", "tiny-bert", *TASK, "--repo", "alice/cache", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in said


def test_a_hub_that_is_down_is_refused(online, hub):
    hub.down()
    said = add(online, "-m", "tiny-bert", *TASK, "--", "touch", "ran", code=1).stderr
    assert said.startswith("neuron-store: hf://alice/cache cannot be reached, so nothing is run: ")
    assert not (online.work / "ran").exists()


def test_a_folder_that_is_not_there_is_refused(online, hub, tmp_path):
    said = refused(online, hub, "-m", "tiny-bert", *TASK, NEURON_STORE_REMOTES=f"file://{tmp_path}/absent")
    assert said.startswith(f"file://{tmp_path}/absent cannot be reached, so nothing is run: ")


def test_a_model_that_is_not_there_is_refused(online, hub):
    said = refused(online, hub, "-m", "alice/absent", *TASK)
    assert "alice/absent" in said
    (online.work / "empty").mkdir()
    assert "empty" in refused(online, hub, "-m", "./empty", *TASK)
    refused(online, hub, "-m", "", *TASK, code=2)


def test_a_config_that_is_none_is_refused(online, hub):
    (online.work / "tiny-bert/config.json").write_text("[1]")
    assert "config.json" in refused(online, hub, "-m", "tiny-bert", *TASK, code=2)


def test_a_task_that_is_none_is_refused_and_so_is_none_at_all(online, hub):
    assert "no task" in refused(online, hub, "-m", "tiny-bert", "--task", "two words", code=2)
    make_model(online, architectures=["BertModelOfMine"])
    said = refused(online, hub, "-m", "tiny-bert", code=2)
    assert said.endswith("tiny-bert does not tell its task: give --task\n")


def test_options_that_cannot_be_are_refused_before_anything_is_asked(online, hub):
    asked = len(hub.requests)
    said = refused(online, hub, "-m", "tiny-bert", *TASK, "--set", "task=x", code=2)
    assert said == "--set has 'task=x': that is said by --task\n"
    refused(online, hub, "-m", "tiny-bert", *TASK, "--batch-size", "0", code=2)
    refused(online, hub, "-m", "tiny-bert", *TASK, "--precision", "int4", code=2)
    refused(online, hub, *TASK, code=2)
    assert len(hub.requests) == asked


def test_without_a_compiler_nothing_is_run(online, hub, tmp_path):
    path = f"{online.launcher.parent}:/usr/bin:/bin"
    said = refused(online, hub, "-m", "tiny-bert", *TASK, code=127, PATH=path)
    assert said.startswith("there is no neuronx-cc on PATH: nothing can be compiled here")
    said = refused(online, hub, "-m", "tiny-bert", *TASK, code=127, NEURON_STORE_COMPILER=tmp_path / "cc")
    assert said.startswith(f"{tmp_path}/cc is no compiler")


@pytest.mark.parametrize("setting", [{"NEURON_STORE_ENABLED": "false"}, {"NEURON_STORE_READ_ONLY": "true"}])
def test_a_store_that_takes_nothing_is_refused(online, hub, setting):
    assert refused(online, hub, "-m", "tiny-bert", *TASK, code=2, **setting).startswith("nothing would be stored")


# -- commands that do not do it ------------------------------------------------------------------------------------


def test_a_command_that_fails_gives_its_exit_code_and_nothing_is_said_to_be_added(online, hub):
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 1, after="exit 3"), code=3)
    assert "added" not in done.stdout
    assert done.stderr == (
        "neuron-store: sh failed (exit code 3), so the model is not added; 1 result that it made stays queued, for the "
        "background or `neuron-store push`\n"
    )
    assert records(hub) == []
    ns(online, "push")
    assert len(records(hub)) == 1


def test_a_command_that_dies_of_a_signal_ends_us_the_same_way(online):
    done = online.cli("add", "-m", "tiny-bert", *TASK, "--", "sh", "-c", "kill -TERM $$", check=False)
    assert done.returncode == -15
    assert done.stderr == "neuron-store: sh was ended by signal 15, so the model is not added\n"


def test_a_command_that_is_not_there_has_a_shells_exit_code(online):
    done = add(online, "-m", "tiny-bert", *TASK, "--", "absent", code=127)
    assert done.stderr == "neuron-store: absent cannot be run: No such file or directory\n"


def test_a_command_that_compiles_nothing_adds_nothing(online, hub):
    done = add(online, "-m", "tiny-bert", *TASK, "--", "echo", "hello", code=1)
    assert done.stdout == "hello\n"
    assert done.stderr.startswith("neuron-store: echo ran no neuronx-cc: nothing to add; ")
    done = add(online, "-m", "tiny-bert", *TASK, "--", "neuronx-cc", "--version", code=1)
    assert done.stderr == "neuron-store: neuronx-cc compiled nothing that can be shared: nothing to add\n"
    assert (records(hub), entries(hub)) == ([], {})


def test_a_command_whose_compiles_cannot_be_shared_adds_nothing(online, hub):
    command = ["sh", "-c", f"{compiling(online, 1)[2]} || true"]
    done = add(online, "-m", "tiny-bert", *TASK, "--", *command, code=1, STANDIN_EXIT=70)
    assert done.stderr.endswith(
        "neuron-store: sh compiled nothing that can be shared (1 miss_failed; see `neuron-store stats`): "
        "nothing to add\n"
    )
    assert records(hub) == []


def test_a_hub_that_takes_nothing_in_the_end_is_a_failure(online, hub):
    hub.fail("commit", Status(500), times=None)
    done = add(online, "-m", "tiny-bert", *TASK, "--", *compiling(online, 1), code=1)
    assert "still queued" in done.stderr
    assert "0 of 1 present" in done.stdout


# -- sessions of our own -------------------------------------------------------------------------------------------

EXPORTER = """\
import json, os, subprocess, sys
names = ("NEURON_PLATFORM_TARGET_OVERRIDE", "NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "CUSTOM_CACHE_REPO", "NEURON_STORE_MODEL_TASK")
seen = {name: os.environ.get(name) for name in names}
open("seen", "w").write(json.dumps({"argv": sys.argv[1:], **seen}))
output = sys.argv[-1]
os.makedirs(output)
open("graph.pb", "wb").write(b"a graph of the export")
line = ["neuronx-cc", "compile", "--framework=XLA", "--target=trn1", "graph.pb", "--output=" + output + "/g.neff"]
sys.exit(subprocess.run(line).returncode)
"""


@pytest.fixture
def exporting(online, tmp_path):
    """A host whose python3 has an optimum-neuron, which compiles one graph."""
    python = make_venv(tmp_path / "optimum", with_neuron_store=False)
    (site_packages,) = (tmp_path / "optimum").glob("lib/python*/site-packages")
    install(site_packages, "0.4.5")
    module = site_packages / "optimum/exporters/neuron"
    module.mkdir(parents=True)
    (module / "__main__.py").write_text(EXPORTER)
    online.env["PATH"] = online.env["PATH"].replace(":/usr/bin", f":{python.parent}:/usr/bin", 1)
    return online


SESSION = ("-m", "tiny-bert", *TASK, "--sequence_length", 128, "--instance_type", "inf2")


def test_without_a_command_a_small_export_is_run(exporting, hub):
    temporary = exporting.base / "temporary"
    temporary.mkdir()
    done = add(exporting, *SESSION, TMPDIR=temporary, NEURON_CC_FLAGS="-O1")
    assert done.stdout.endswith(
        "added 1 key (1 compiled, 0 hits) of local/tiny-bert to hf://alice/cache: 1 of 1 present\n"
    )
    seen = json.loads((exporting.work / "seen").read_text())
    folder = os.path.dirname(seen["argv"][-1])
    assert seen["argv"][:4] == ["--model", str(exporting.work / "tiny-bert"), "--task", "text-classification"]
    assert seen["NEURON_CC_FLAGS"] == f"-O1 --cache_dir={folder}/cache"
    assert seen["NEURON_COMPILE_CACHE_URL"] == f"{folder}/cache"
    assert seen["CUSTOM_CACHE_REPO"] == "hf://alice/cache"
    assert seen["NEURON_PLATFORM_TARGET_OVERRIDE"] == (None if has_neuron_device() else "trn1")
    assert seen["NEURON_STORE_MODEL_TASK"] == "text-classification"
    assert list(temporary.iterdir()) == []
    (neuron,) = {json.dumps(entry["neuron"], sort_keys=True) for entry in entries(hub).values()}
    told = json.loads(neuron)
    assert (told["batch_size"], told["sequence_length"], told["tp_degree"], told["target"]) == (1, 128, 1, "trn1")
    assert told["torch_dtype"] == "float32"


def test_a_dry_run_prints_one_line_and_changes_and_asks_nothing(exporting, hub):
    asked = len(hub.requests)
    done = add(exporting, *SESSION, "--dry-run")
    (line,) = done.stdout.splitlines()
    words = shlex.split(line)
    assert words[0] == f"NEURON_STORE_MODEL={exporting.work}/tiny-bert"
    assert "optimum.exporters.neuron" in words
    assert not exporting.store.exists()
    assert not (exporting.work / "seen").exists()
    done = add(exporting, "-m", "org/name", *SESSION[2:], "--dry-run")
    assert done.stdout.startswith("NEURON_STORE_MODEL=org/name NEURON_STORE_MODEL_TASK=text-classification ")
    done = add(exporting, "-m", "org/name", "--sequence-length", 8, "--dry-run", code=2)
    assert done.stderr == "neuron-store: give --task: a dry run does not ask the Hub for the model's\n"
    assert len(hub.requests) == asked


def test_a_dry_run_of_a_training_shows_torchrun(exporting):
    words = ("--train_batch_size", 8, "--num_cores", 2, "--precision", "bf16", "--max_steps", 3, "--json")
    said = answer(exporting, "add", *SESSION, *words, "--dry-run")
    assert said["command"][1:5] == ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    assert said["command"][-1] == "--bf16"
    assert said["variables"]["NEURON_STORE_MODEL_BATCH_SIZE"] == "8"


def test_a_session_that_cannot_be_planned_is_refused(exporting, hub):
    def said(*words):
        done = add(exporting, "-m", "tiny-bert", *words, code=2)
        assert not (exporting.work / "seen").exists()
        return done.stderr.removeprefix("neuron-store: ")

    assert said(*TASK, "--instance_type", "trn1").startswith("an export for text-classification has static shapes")
    assert said("--task", "poetry").startswith("no export is known for the task 'poetry'")
    assert said("--task", "poetry", "--train-batch-size", 1).startswith("no training is known for the task 'poetry'")
    assert (records(hub), entries(hub)) == ([], {})


def test_without_optimum_neuron_it_says_so(online, hub):
    for more in ([], ["--dry-run"]):
        done = add(online, *SESSION, *more, code=2)
        assert done.stderr.startswith("neuron-store: optimum-neuron is not installed, neither here nor for the python3")


def test_help_fits_a_terminal_and_names_every_option_in_full(online):
    done = ns(online, "add", "-h", COLUMNS=80)
    options, _, examples = done.stdout.partition("\nExamples:\n")
    assert max(map(len, options.splitlines())) <= 80
    assert examples  # lines to be copied are not broken
    assert "…" not in done.stdout
    for name in ("train-batch-size", "gradient-accumulation-steps", "tensor-parallel-size", "dry-run", "precision"):
        assert f"--{name} " in done.stdout
