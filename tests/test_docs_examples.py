"""The documents' complete files (docs/examples) are of the languages that they claim to be."""

import configparser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import bashlex
import dockerfile_parse
import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
EXAMPLES = sorted((ROOT / "docs/examples").iterdir())


def test_examples_are_all_of_kinds_that_are_checked():
    assert {path.suffix or path.name for path in EXAMPLES} == {".yaml", ".py", ".sbatch", ".service", "Dockerfile"}
    for path in EXAMPLES:
        pages = [page for page in DOCUMENTS if f'--8<-- "examples/{path.name}"' in page.read_text()]
        assert len(pages) == 1, path


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.suffix == ".yaml"], ids=lambda path: path.name)
def test_manifests_are_yaml_with_what_kubernetes_asks_for(path):
    for manifest in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(manifest)
        pod = manifest["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {"name", "image"} <= set(container)
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        if "selector" in manifest["spec"]:
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_batch_script_is_bash():
    script = ROOT / "docs/examples/train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    bashlex.parse(script.read_text())


def test_the_unit_is_one_that_systemd_can_read():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "docs/examples/neuron-serve.service")
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    assert unit["Service"]["ExecStart"].startswith("/")


def test_the_dockerfile_is_one():
    parsed = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO((ROOT / "docs/examples/Dockerfile").read_bytes()))
    known = {"ARG", "FROM", "RUN", "ENV", "VOLUME", "ENTRYPOINT", "CMD", "COMMENT"}
    steps = parsed.structure
    assert {step["instruction"] for step in steps} <= known
    for step in steps:
        if step["instruction"] == "RUN":
            bashlex.parse(re.sub(r"^--mount=\S+\s*", "", " ".join(step["value"].split())))
        if step["instruction"] in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(step["value"]))


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.suffix == ".py"], ids=lambda path: path.name)
def test_python_examples_compile(path):
    compile(path.read_text(), path, "exec")


def test_the_entry_point_for_sagemaker_starts_torchrun_on_each_host(host):
    program = host.work / "bin/neuron-store"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environ = {
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "SM_HOSTS": '["algo-1", "algo-2"]',
        "SM_CURRENT_HOST": "algo-2",
    }
    start = ROOT / "docs/examples/start.py"
    done = subprocess.run(
        [sys.executable, start, "--epochs", "3"], env=environ, capture_output=True, text=True, check=True
    )
    words = done.stdout.split("\n")[:-1]
    assert words[: words.index("--") + 2] == ["run", "--push-timeout", "600", "--", "torchrun"]
    assert words[words.index("torchrun") + 1 :] == [
        "--nnodes=2", "--node_rank=1", "--nproc_per_node=32", "--master_addr=algo-1", "--master_port=41000",
        "train.py", "--epochs", "3",
    ]  # fmt: skip
