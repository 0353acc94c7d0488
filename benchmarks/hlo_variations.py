"""One small program, traced by JAX in ways that should not matter, each in a process of its own.

`trace(folder, variation)` writes the program's source into `folder` and runs it there. Only that process needs jax.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_SOURCE = """\
{shift}import sys

import jax
import jax.numpy as jnp

if {no_tracebacks}:
    jax.config.update("jax_include_full_tracebacks_in_locations", False)
    jax.config.update("jax_traceback_in_locations_limit", 0)


def loss({weights}, {tokens}):
    def layer(carry, weight):
        return jax.nn.softmax(carry @ weight) + carry, carry.sum()

    last, sums = jax.lax.scan(layer, {weights}["table"][{tokens}], {weights}["layers"])
    return jnp.sort(last).max() + jnp.argmax(sums) * {constant}


def {function}({weights}, {tokens}):
    with jax.named_scope({scope!r}):
        value, gradient = jax.value_and_grad(loss)({weights}, {tokens})
        return jax.tree.map(lambda w, g: w - 0.125 * g, {weights}, gradient), value


def deeper(depth, call):
    return call() if depth == 0 else deeper(depth - 1, call)


def lower():
    weights = {{"table": jnp.zeros((32, 16)), "layers": jnp.zeros((4, 16, 16))}}
    lowered = jax.jit({function}, donate_argnums=0).lower(weights, jnp.zeros((8,), jnp.int32))
    return lowered.compiler_ir(dialect="hlo").as_serialized_hlo_module_proto()


for size in range({compiles_before}):
    jax.jit(lambda x: jnp.cumsum(x * 2)).lower(jnp.zeros(size + 3)).compile()
with open(sys.argv[1], "wb") as file:
    file.write(deeper({depth}, lower))
"""


class Variation(NamedTuple):
    """How a trace differs from the plain one."""

    title: str
    folder: str = "project"
    shift: int = 0  # lines
    function: str = "train_step"
    scope: str = "step"
    depth: int = 0  # calls around the trace
    compiles_before: int = 0
    hash_seed: str = "0"
    no_tracebacks: bool = False
    weights: str = "weights"
    tokens: str = "tokens"
    constant: str = "0.5"
    same: bool = True  # is it the same program by the rules of the fingerprint?


PLAIN = Variation("the same source traced again")

TRACES = {
    "again": PLAIN,
    "other_directory": Variation("traced from another directory", folder="elsewhere/deep/er"),
    "shifted_lines": Variation("source lines shifted", shift=40),
    "renamed_function": Variation("jitted function renamed", function="another_name"),
    "named_scope": Variation("another `jax.named_scope`", scope="another/scope"),
    "deeper_stack": Variation("a deeper call stack", depth=12),
    "other_compiles_first": Variation("after other compiles in the process", compiles_before=3),
    "hash_seed": Variation("another `PYTHONHASHSEED`", hash_seed="12345"),
    "no_tracebacks": Variation("tracebacks in locations off", no_tracebacks=True),
    "renamed_arguments": Variation("arguments renamed", weights="params", tokens="ids", same=False),
    "other_constant": Variation("a constant changed", constant="0.75", same=False),
}


def trace(folder: str | os.PathLike[str], variation: Variation) -> bytes:
    """Return the HLO module proto of the program, traced below `folder`. Raises CalledProcessError, OSError."""
    place = Path(folder, variation.folder)
    place.mkdir(parents=True, exist_ok=True)
    source = place / "program.py"
    choices = {**variation._asdict(), "shift": "#\n" * variation.shift}
    source.write_text(_SOURCE.format(**choices))
    made = place / "made.hlo_module.pb"
    surroundings = {**os.environ, "PYTHONHASHSEED": variation.hash_seed, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, source, made], cwd=place, env=surroundings, check=True)
    return made.read_bytes()
