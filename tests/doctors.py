"""What tests of `doctor` and `bugreport` share."""

import json
import os
import shutil
import subprocess
import sys

import pytest


class Diagnosis:
    """What `neuron-store doctor --json` said.

    Attributes:
        code: its exit code.
        document: all of it.
        findings: id -> the first finding of that id.
    """

    def __init__(self, done):
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        self.code = done.returncode
        self.document = json.loads(done.stdout)
        self.findings = {}
        for finding in self.document["findings"]:
            self.findings.setdefault(finding["id"], finding)
        problems = [finding for finding in self.document["findings"] if finding["level"] == "problem"]
        assert self.code == (4 if problems else 0)

    def __contains__(self, name):
        return name in self.findings

    def what(self, name):
        """The words of a finding; what to do stands beside them unless nothing need be done."""
        assert name in self.findings, self.said
        finding = self.findings[name]
        if finding["level"] in ("warning", "problem"):
            assert finding["advice"]
        return finding["what"]

    def facts(self, name):
        self.what(name)
        return self.findings[name]["facts"]

    @property
    def said(self):
        return json.dumps(self.document, indent=1)

    def of_level(self, *levels):
        return [finding["id"] for finding in self.document["findings"] if finding["level"] in levels]


def diagnose(host, *arguments, prefix=(), cwd=None, **extra):
    """Run `neuron-store doctor --json` on a host; no remote is asked unless the host has one."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "neuron_store.cli", "doctor", "--json", *arguments],
        cwd=cwd or host.work,
        env=host.environ(extra),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    return Diagnosis(done)


def powerless():
    """The prefix of a command that must not pass over modes: root without its capabilities."""
    if os.geteuid():
        return []
    prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root's capabilities cannot be dropped here")
    return prefix


def patched(host, code):
    """The environment of a process in which `code` runs before anything else: faults of the system, injected."""
    folder = host.base / "patches"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}
