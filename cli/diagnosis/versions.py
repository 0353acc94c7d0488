"""Versions: of neuron-store and what it stands on, and of the Neuron packages in the compiler's environment."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from neuron_store.cli.diagnosis.callers import environments
from neuron_store.cli.diagnosis.compiler import site_folders
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.hashing.environment import host_product
from neuron_store.shim.version import VERSION

_DISTRIBUTION = "neuron-store"
_NEURON = re.compile(r"neuron|^nki|^torch(-xla)?$|^jax$|^vllm$|^transformers$")

AREA = Area(
    "versions",
    {
        "fit": ok("neuron-store's own dependencies are all there, and new enough."),
        "too-old": problem(
            "A package that neuron-store stands on is missing, or older than it needs.",
            "install neuron-store again: `pip install --upgrade neuron-store`",
        ),
        "neuron-packages": note("The Neuron packages in one of the Python environments at hand."),
        "no-neuron-packages": note(
            "No Neuron package is in the Python environments at hand (ours, the active one, PATH's, the compiler's)."
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Compare what is installed with what is needed, and list the Neuron packages."""
    wanting = list(_wanting())
    for name, installed, needed in wanting:
        yield AREA.find("too-old", f"{name} is {installed or 'missing'}, and {needed} or newer is needed", package=name)
    if not wanting:
        said = f"neuron-store {VERSION} on Python {platform.python_version()}, with all that it needs"
        yield AREA.find("fit", said, **base_versions())
    found = False
    for prefix, packages in neuron_packages(here).items():
        found = True
        shown = ", ".join(f"{name} {version}" for name, version in packages.items())
        yield AREA.find("neuron-packages", f"{prefix} has {shown}", prefix=prefix, packages=packages)
    if not found:
        yield AREA.find("no-neuron-packages", f"no Neuron package is in {', '.join(environments(here))}")


def base_versions() -> dict[str, str]:
    """Return name -> version of all that neuron-store runs on here."""
    versions = {
        "neuron-store": VERSION,
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "host_product": host_product().decode("utf-8", "replace"),
    }
    for name, _ in _needs():
        versions[name] = _installed(name)
    return versions


def neuron_packages(here: Surroundings) -> dict[str, dict[str, str]]:
    """Return environment -> package -> version, of the packages that have to do with Neuron."""
    found = {}
    for prefix in environments(here):
        folders = [folder for folder in site_folders(prefix) if os.access(folder, os.R_OK | os.X_OK)]
        packages = {}
        for distribution in metadata.distributions(path=folders):
            name = _normal(distribution.metadata["Name"] or "")
            if _NEURON.search(name) and name != _DISTRIBUTION:
                packages[name] = distribution.version
        if any("neuron" in name for name in packages):
            found[prefix] = dict(sorted(packages.items()))
    return found


def _needs() -> list[tuple[str, str]]:
    """Return what neuron-store needs: package and lowest version."""
    try:
        wanted = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    found = [re.match(r"([\w.-]+)\s*>=\s*([\w.]+)$", need) for need in wanted]  # none with a marker behind it
    return [(match[1], match[2]) for match in found if match]


def _wanting() -> Iterator[tuple[str, str, str]]:
    for name, needed in _needs():
        installed = _installed(name)
        if not installed or _numbers(installed) < _numbers(needed):
            yield name, installed, needed


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> list[int]:
    """Return the leading numbers of a version: `1.2.0rc1` is 1, 2, 0."""
    return [int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0])]  # type: ignore[index]  # it matches anything


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
