"""The HLO that comes with the package: real modules, made by `hlo_models`, kept compressed in this folder.

`python -m neuron_store.benchmarks.builtin DIRECTORY` unpacks them into DIRECTORY, and `--regenerate` in its
place makes them anew, which needs jax.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    import os

_PACKED = Path(__file__).parent
_SUFFIX = ".hlo_module.pb.zst"
_LEVEL = 19


def builtin_names() -> list[str]:
    """Return the names of the models that come with the package, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _PACKED.glob(f"*{_SUFFIX}"))


def builtin_model(name: str) -> bytes:
    """Return the serialised HloModuleProto of the built-in model `name`. Raises KeyError if there is none."""
    if name not in builtin_names():
        raise KeyError(name)
    return zstandard.ZstdDecompressor().decompress((_PACKED / f"{name}{_SUFFIX}").read_bytes())


def builtin_models(directory: str | os.PathLike[str]) -> list[Path]:
    """Write every built-in model to `directory` (made if absent) as `<name>.hlo_module.pb`.

    Returns the paths, sorted. Raises OSError.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    paths = [Path(directory, f"{name}{_SUFFIX.removesuffix('.zst')}") for name in builtin_names()]
    for name, path in zip(builtin_names(), paths, strict=True):
        path.write_bytes(builtin_model(name))
    return paths


def regenerate() -> list[Path]:
    """Make the packed files in this package anew from `hlo_models`, return their paths. Needs jax."""
    from neuron_store.benchmarks.hlo_models import MODELS

    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    paths = []
    for name, make_hlo in MODELS.items():
        paths.append(_PACKED / f"{name}{_SUFFIX}")
        paths[-1].write_bytes(compressor.compress(make_hlo()))
    return paths


def main(argv: list[str] | None = None) -> int:
    """Unpack or regenerate, as the command line says, and print sizes (bytes) and paths. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m neuron_store.benchmarks.builtin", description=__doc__)
    parser.add_argument("directory", nargs="?", help="where to unpack the models")
    parser.add_argument("--regenerate", action="store_true", help="make the packed models anew (needs jax)")
    options = parser.parse_args(argv)
    if options.regenerate == (options.directory is not None):
        parser.error("either a DIRECTORY or --regenerate")
    for path in regenerate() if options.regenerate else builtin_models(options.directory):
        print(path.stat().st_size, path)
    return 0
