"""Run a reference NEFF on this machine's CPU, and tell whether two of them compute the same.

Loading an executable runs machine code out of the file: only for NEFFs whose origin is trusted. An executable
runs on CPUs like those that it was compiled on, under the same jaxlib.
"""

from __future__ import annotations

import importlib
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neuron_store.benchmarks.neff import NeffError, read_neff
from neuron_store.benchmarks.reference_compiler import EXECUTABLE_MEMBER, INFO_MEMBER
from neuron_store.benchmarks.xla_cpu import Tensor, quiet_cpu_only

if TYPE_CHECKING:
    import os
    from contextlib import AbstractContextManager
    from types import ModuleType

    from numpy.typing import NDArray

_INTEGER_LIMIT = 8  # integers are token ids, labels, positions: 0..7 is in range of them all
_FLOAT_LIMIT = 0.125  # small, and never negative: some models take a square root of an input


class Comparison(NamedTuple):
    """How the outputs of two programs compare.

    equal: the same outputs, bit for bit
    values: how many numbers were compared
    max_abs_difference: the largest difference of two of them; infinity if shapes or dtypes differ
    """

    equal: bool
    values: int
    max_abs_difference: float


def run_neff(path: str | os.PathLike[str], seed: int = 0) -> list[NDArray[Any]]:
    """Run the program in the NEFF at `path` on inputs made from `seed`, return its outputs in order.

    Raises NeffError if the file is not a reference NEFF, RuntimeError (from XLA) if its executable is not for
    this CPU and jaxlib, OSError if it cannot be read, ImportError without jax.
    """
    members = read_neff(path)
    try:
        info = json.loads(members[INFO_MEMBER])
        tensors = [Tensor(entry["dtype"], tuple(entry["shape"])) for entry in info["inputs"]]
        executable = members[EXECUTABLE_MEMBER]
    except (KeyError, TypeError, ValueError) as error:
        raise NeffError(f"{path}: no executable with described inputs in this NEFF: {error!r}") from error
    return _execute(executable, make_inputs(tensors, seed))


def make_inputs(tensors: list[Tensor], seed: int = 0) -> list[NDArray[Any]]:
    """Return one array per tensor, the same for the same seed: integers in 0..7, floats in [0, 0.125)."""
    generator = np.random.default_rng(seed)
    return [_make_input(generator, tensor) for tensor in tensors]


def compare_neffs(a: str | os.PathLike[str], b: str | os.PathLike[str], seed: int = 0) -> Comparison:
    """Run two NEFFs on the same inputs and compare their outputs. Raises as `run_neff` does.

    Two NaNs in one place count as a difference of 0, a NaN and a number as infinity.
    """
    return compare_outputs(run_neff(a, seed), run_neff(b, seed))


def compare_outputs(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> Comparison:
    """Compare two lists of arrays. See `Comparison`."""
    if [(x.shape, x.dtype) for x in a] != [(y.shape, y.dtype) for y in b]:
        return Comparison(equal=False, values=0, max_abs_difference=math.inf)
    return Comparison(
        equal=all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)),
        values=sum(x.size for x in a),
        max_abs_difference=max((_max_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0),
    )


def _execute(executable: bytes, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    quiet_cpu_only()
    import jax
    from jaxlib import xla_client

    device = jax.devices("cpu")[0]
    client: Any = device.client
    devices, options = xla_client.DeviceList((device,)), xla_client.CompileOptions()
    loaded = client.deserialize_executable(executable, devices, options)
    with _wide_types(jax):
        arguments = [jax.device_put(array, device) for array in inputs]
        outputs = loaded.execute_sharded(arguments).disassemble_into_single_device_arrays()
        return [np.asarray(shards[0]) for shards in outputs]


def _wide_types(jax: ModuleType) -> AbstractContextManager[None]:
    """Return a context in which jax does not narrow 64-bit inputs to 32."""
    # Older versions of jax keep it among the experimental.
    module = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    context: AbstractContextManager[None] = module.enable_x64(True)
    return context


def _make_input(generator: np.random.Generator, tensor: Tensor) -> NDArray[Any]:
    dtype = _dtype(tensor.dtype)
    if dtype == np.bool_:
        return generator.integers(0, 2, tensor.shape).astype(dtype)
    if "int" in dtype.name:  # numpy does not count the 4-bit integers of ml_dtypes as integers
        return generator.integers(0, _INTEGER_LIMIT, tensor.shape).astype(dtype)
    return (generator.random(tensor.shape) * _FLOAT_LIMIT).astype(dtype)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        extension: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))  # bfloat16, float8_e4m3fn, int4, ...
        return extension


def _max_difference(x: NDArray[Any], y: NDArray[Any]) -> float:
    if not x.size or x.tobytes() == y.tobytes():
        return 0.0
    wide = np.complex128 if np.iscomplexobj(x) else np.float64
    with np.errstate(invalid="ignore"):
        difference = np.abs(x.astype(wide) - y.astype(wide))
    both_nan = np.isnan(x.astype(wide)) & np.isnan(y.astype(wide))
    return float(np.max(np.where(both_nan, 0.0, np.nan_to_num(difference, nan=math.inf, posinf=math.inf))))
