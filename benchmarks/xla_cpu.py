"""XLA's CPU compiler through jaxlib alone: HLO in, a serialised executable out.

The calls are jaxlib's own (not a public interface); they were found the same in jaxlib 0.6.2, 0.10.2 and
0.12.0. Importing this module imports nothing heavy: jaxlib is loaded by the first call that needs it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from typing import Any, NamedTuple

MLIR_BYTECODE_MAGIC = b"ML\xefR"  # https://mlir.llvm.org/docs/BytecodeFormat/
Jaxlib = Any  # a module or an object of jaxlib, which has no annotations

DEFAULT_OPTIMISATION = 2  # the documented default of neuronx-cc's --optlevel


class CompileError(Exception):
    """The input cannot be compiled, or there is nothing to compile it with. The message is for a person."""


class Tensor(NamedTuple):
    """One input of a program: numpy's name of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class Program(NamedTuple):
    """What a compile gives.

    executable: serialised, for CPUs like this one and for this jaxlib
    inputs: the program's parameters in order, tuples flattened
    parameters, result: the same interface as XLA writes it (`f32[8,16]{1,0}`)
    digest: sha256 in hex of the optimised program without names and metadata
    """

    executable: bytes
    inputs: list[Tensor]
    parameters: list[str]
    result: str
    digest: str


def quiet_cpu_only() -> None:
    """Set the environment that keeps XLA's C++ logging off stderr and its hands off accelerators.

    Both variables are read when jaxlib is loaded, so this comes before any import of it.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["JAX_PLATFORMS"] = "cpu"


def compile_program(model: bytes, optimisation: int = DEFAULT_OPTIMISATION) -> Program:
    """Compile `model`: a serialised HloModuleProto, or StableHLO as MLIR bytecode.

    `optimisation` is 1, 2 or 3. Raises CompileError, also where jaxlib is not installed.
    """
    xla = _load_xla()
    try:
        stablehlo = model if model.startswith(MLIR_BYTECODE_MAGIC) else xla.mlir.hlo_to_stablehlo(model)
    except RuntimeError as error:
        raise CompileError(f"not a valid HLO module: {_first_line(error)}") from error
    try:
        return _compile_stablehlo(xla, stablehlo, optimisation)
    except (RuntimeError, ValueError) as error:
        raise CompileError(f"XLA cannot compile the module: {_first_line(error)}") from error


def _compile_stablehlo(xla: Jaxlib, stablehlo: bytes, optimisation: int) -> Program:
    client = xla.get_tfrt_cpu_client(asynchronous=False)
    options = xla.CompileOptions()
    options.executable_build_options.debug_options.xla_backend_optimization_level = optimisation
    devices = xla.DeviceList(tuple(client.local_devices()[:1]))
    executable = client.compile_and_load(stablehlo, devices, options)
    optimised = executable.hlo_modules()[0]
    interface = _hlo_classes(xla).XlaComputation(optimised.as_serialized_hlo_module_proto()).program_shape()
    shapes = interface.parameter_shapes()
    return Program(
        executable=client.serialize_executable(executable),
        inputs=[Tensor(str(leaf.numpy_dtype()), tuple(leaf.dimensions())) for leaf in _leaves(shapes)],
        parameters=[str(shape) for shape in shapes],
        result=str(interface.result_shape()),
        digest=_program_digest(xla, optimised),
    )


def _program_digest(xla: Jaxlib, optimised: Jaxlib) -> str:
    print_options = _hlo_classes(xla).HloPrintOptions
    everything = print_options()
    everything.print_large_constants = True
    # XLA's fingerprint is free of names, but of constants as well: a changed learning rate would not be seen.
    constants = re.findall(r" constant\((.*?)\)(?:, |$)", optimised.to_string(everything), re.MULTILINE)
    nameless = optimised.to_string(print_options.fingerprint())
    return hashlib.sha256("\n".join([nameless, *constants]).encode()).hexdigest()


def _load_xla() -> Jaxlib:
    quiet_cpu_only()
    try:
        return importlib.import_module("jaxlib._jax")
    except ImportError as error:
        raise CompileError(f"no XLA to compile with ({error}): pip install 'neuron-store[bench]'") from error


def _hlo_classes(xla: Jaxlib) -> Jaxlib:
    """Return the extension module of jaxlib that has the HLO classes: newer versions keep them apart."""
    return xla if hasattr(xla, "XlaComputation") else importlib.import_module("jaxlib._hlo")


def _leaves(shapes: list[Jaxlib]) -> list[Jaxlib]:
    leaves = []
    for shape in shapes:
        leaves.extend(_leaves(shape.tuple_shapes()) if shape.is_tuple() else [shape])
    return leaves


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
