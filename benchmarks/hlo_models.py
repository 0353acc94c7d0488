"""Real HLO from JAX: small models of the kinds that people compile for accelerators, every layer unrolled.

Parameters are arguments of the programs, not constants, and training steps donate them, as real training
loops do. The models are small in width and real in structure, so that XLA's CPU compiler takes seconds, not
minutes. Needs jax.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

Shape: Any = jax.ShapeDtypeStruct  # jax does not annotate its constructor
Tree = Any  # nested dicts and lists of arrays, or of shapes
Norm = dict[str, jax.Array]

LEARNING_RATE = 1e-3
SUFFIX = ".hlo_module.pb"


def mlp_train_step() -> bytes:
    """Return the HLO of one SGD step of a 4-layer perceptron: images (64, 784), labels (64,), float32."""
    widths = (784, 256, 256, 128, 10)
    layers = [{"w": _f32(i, o), "b": _f32(o)} for i, o in itertools.pairwise(widths)]

    def loss(layers: Tree, images: jax.Array, labels: jax.Array) -> jax.Array:
        x = images
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return _cross_entropy(x @ layers[-1]["w"] + layers[-1]["b"], labels)

    def train_step(layers: Tree, images: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(layers, images, labels)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, layers, gradient), value

    return _hlo(train_step, layers, _f32(64, 784), _i32(64), donate=(0,))


def convnet() -> bytes:
    """Return the HLO of an SGD step (with momentum) of a residual network: images (8, 32, 32, 3), float32."""
    channels = (16, 32, 64)
    parameters = {
        "stem": _f32(3, 3, 3, channels[0]),
        "blocks": [
            _residual_block(inputs, outputs)
            for narrow, outputs in itertools.pairwise((channels[0], *channels))
            for inputs in (narrow, outputs)
        ],
        "head": _f32(channels[-1], 10),
    }

    def loss(parameters: Tree, images: jax.Array, labels: jax.Array) -> jax.Array:
        x = _convolve(images, parameters["stem"])
        for block in parameters["blocks"]:
            x = _apply_residual_block(block, x)
        return _cross_entropy(x.mean((1, 2)) @ parameters["head"], labels)

    def train_step(
        parameters: Tree, momentum: Tree, images: jax.Array, labels: jax.Array
    ) -> tuple[Tree, Tree, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(parameters, images, labels)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        return jax.tree.map(lambda p, m: p - LEARNING_RATE * m, parameters, momentum), momentum, value

    return _hlo(train_step, parameters, parameters, _f32(8, 32, 32, 3), _i32(8), donate=(0, 1))


def gpt_train_step(layers: int = 12) -> bytes:
    """Return the HLO of one Adam step of a GPT without biases: tokens and targets (2, 64), float32."""
    width, heads, vocabulary, length = 128, 4, 512, 64
    parameters = {
        "tokens": _f32(vocabulary, width),
        "positions": _f32(length, width),
        "layers": [_gpt_layer(width) for _ in range(layers)],
        "norm": {"scale": _f32(width), "bias": _f32(width)},
    }

    def loss(parameters: Tree, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        x = parameters["tokens"][tokens] + parameters["positions"]
        for layer in parameters["layers"]:
            x = _apply_gpt_layer(layer, x, heads)
        return _cross_entropy(_layer_norm(parameters["norm"], x) @ parameters["tokens"].T, targets)

    def train_step(
        parameters: Tree, optimizer: Tree, tokens: jax.Array, targets: jax.Array
    ) -> tuple[Tree, Tree, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(parameters, tokens, targets)
        parameters, optimizer = _adam(parameters, optimizer, gradient)
        return parameters, optimizer, value

    optimizer = {"first": parameters, "second": parameters, "step": _i32()}
    return _hlo(train_step, parameters, optimizer, _i32(2, length), _i32(2, length), donate=(0, 1))


def llama_prefill(layers: int = 8) -> bytes:
    """Return the HLO of a Llama's pass over a prompt of tokens (1, 128), bfloat16.

    It gives the logits after the last token and the keys and values of every layer.
    """
    config = _LlamaConfig(layers)

    def prefill(parameters: Tree, tokens: jax.Array) -> tuple[jax.Array, Tree]:
        positions = jnp.arange(tokens.shape[1])
        mask = positions[:, None] >= positions[None, :]
        x, cache = parameters["tokens"][tokens], []
        for layer in parameters["layers"]:
            q, k, v = _llama_qkv(config, layer, x, positions)
            x = _llama_finish_layer(layer, x, _grouped_attention(q, k, v, mask))
            cache.append({"k": k, "v": v})
        return _rms_norm(parameters["norm"], x[:, -1]) @ parameters["head"], cache

    return _hlo(prefill, config.parameters(), _i32(1, 128))


def llama_decode(layers: int = 8) -> bytes:
    """Return the HLO of a Llama's step by one token in 4 sequences, with a cache of 128 tokens, bfloat16."""
    config, batch, length = _LlamaConfig(layers), 4, 128
    shape = _bf16(batch, length, config.kv_heads, config.head_width)
    cache = [{"k": shape, "v": shape} for _ in range(layers)]

    def decode(weights: Tree, cache: Tree, tokens: jax.Array, position: jax.Array) -> tuple[jax.Array, Tree]:
        mask = jnp.arange(length)[None, :] <= position
        x, updated = weights["tokens"][tokens], []
        for layer, kept in zip(weights["layers"], cache, strict=True):
            q, k, v = _llama_qkv(config, layer, x, position[None])
            k = jax.lax.dynamic_update_slice_in_dim(kept["k"], k, position, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(kept["v"], v, position, axis=1)
            x = _llama_finish_layer(layer, x, _grouped_attention(q, k, v, mask))
            updated.append({"k": k, "v": v})
        logits = _rms_norm(weights["norm"], x[:, -1]) @ weights["head"]
        return jnp.argmax(logits, axis=-1), updated

    return _hlo(decode, config.parameters(), cache, _i32(batch, 1), _i32(), donate=(1,))


MODELS: dict[str, Callable[[], bytes]] = {
    "mlp_train_step": mlp_train_step,
    "convnet": convnet,
    "gpt_train_step": gpt_train_step,
    "llama_prefill": llama_prefill,
    "llama_decode": llama_decode,
}


def write_models(directory: str | os.PathLike[str], names: Iterable[str] | None = None) -> list[Path]:
    """Write `<name>.hlo_module.pb` for each of `names` (default: all of MODELS) into `directory`.

    The directory is made if absent. Returns the paths in the order of `names`. Raises KeyError for a name
    that is not in MODELS, and OSError.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    return [_write_model(Path(directory), name) for name in (MODELS if names is None else names)]


def _write_model(directory: Path, name: str) -> Path:
    path = directory / f"{name}{SUFFIX}"
    path.write_bytes(MODELS[name]())
    return path


def _hlo(function: Callable[..., Any], *arguments: Tree, donate: tuple[int, ...] = ()) -> bytes:
    """Return the serialised HloModuleProto of `function` for arguments of these shapes."""
    with _file_names_without_directories():
        lowered = jax.jit(function, donate_argnums=donate, keep_unused=True).lower(*arguments)
        module: Any = lowered.compiler_ir(dialect="hlo")
    return bytes(module.as_serialized_hlo_module_proto())


@contextlib.contextmanager
def _file_names_without_directories() -> Iterator[None]:
    # HLO carries the source file of every operation: where this file lies is nobody's business.
    config: Any = jax.config
    option = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(config, option)
    config.update(option, r".*[/\\]")
    try:
        yield
    finally:
        config.update(option, before)


def _f32(*shape: int) -> Tree:
    return Shape(shape, jnp.float32)


def _bf16(*shape: int) -> Tree:
    return Shape(shape, jnp.bfloat16)


def _i32(*shape: int) -> Tree:
    return Shape(shape, jnp.int32)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1).mean()


def _adam(parameters: Tree, optimizer: Tree, gradient: Tree) -> tuple[Tree, Tree]:
    """Return the parameters and the optimizer's state after one step of Adam with bias correction."""
    step = optimizer["step"] + 1
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, optimizer["first"], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, optimizer["second"], gradient)
    updated = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), parameters, first, second)
    return updated, {"first": first, "second": second, "step": step}


def _residual_block(inputs: int, outputs: int) -> Tree:
    scale = {"scale": _f32(outputs), "bias": _f32(outputs)}
    return {
        "first": _f32(3, 3, inputs, outputs),
        "first_norm": scale,
        "second": _f32(3, 3, outputs, outputs),
        "second_norm": scale,
        "shortcut": _f32(1, 1, inputs, outputs),
    }


def _apply_residual_block(block: Tree, x: jax.Array) -> jax.Array:
    stride = 2 if block["first"].shape[2] != block["first"].shape[3] else 1
    y = jax.nn.relu(_channel_norm(block["first_norm"], _convolve(x, block["first"], stride)))
    y = _channel_norm(block["second_norm"], _convolve(y, block["second"]))
    return jax.nn.relu(y + _convolve(x, block["shortcut"], stride))


def _convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


def _channel_norm(parameters: Norm, x: jax.Array) -> jax.Array:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * parameters["scale"] + parameters["bias"]


def _layer_norm(parameters: Norm, x: jax.Array) -> jax.Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * parameters["scale"] + parameters["bias"]


def _gpt_layer(width: int) -> Tree:
    norm = {"scale": _f32(width), "bias": _f32(width)}
    return {
        "attention_norm": norm,
        "qkv": _f32(width, 3 * width),
        "out": _f32(width, width),
        "mlp_norm": norm,
        "up": _f32(width, 4 * width),
        "down": _f32(4 * width, width),
    }


def _apply_gpt_layer(layer: Tree, x: jax.Array, heads: int) -> jax.Array:
    batch, length, width = x.shape
    qkv = _layer_norm(layer["attention_norm"], x) @ layer["qkv"]
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, width // heads), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // heads) ** 0.5
    mask = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width) @ layer["out"]
    hidden: jax.Array = jax.nn.gelu(_layer_norm(layer["mlp_norm"], x) @ layer["up"])
    return x + jnp.matmul(hidden, layer["down"])


class _LlamaConfig:
    """The sizes of a small Llama with grouped queries."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.width, self.hidden, self.vocabulary = 256, 688, 1024
        self.heads, self.kv_heads, self.head_width = 8, 2, 32

    def parameters(self) -> Tree:
        layer = {
            "attention_norm": _bf16(self.width),
            "q": _bf16(self.width, self.heads * self.head_width),
            "k": _bf16(self.width, self.kv_heads * self.head_width),
            "v": _bf16(self.width, self.kv_heads * self.head_width),
            "out": _bf16(self.heads * self.head_width, self.width),
            "mlp_norm": _bf16(self.width),
            "gate": _bf16(self.width, self.hidden),
            "up": _bf16(self.width, self.hidden),
            "down": _bf16(self.hidden, self.width),
        }
        return {
            "tokens": _bf16(self.vocabulary, self.width),
            "layers": [layer] * self.layers,
            "norm": _bf16(self.width),
            "head": _bf16(self.width, self.vocabulary),
        }


def _llama_qkv(
    config: _LlamaConfig,
    layer: Tree,
    x: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries (batch, length, heads, head width), keys and values (the same with fewer heads)."""
    normed, rows = _rms_norm(layer["attention_norm"], x), x.shape[:2]
    q = (normed @ layer["q"]).reshape(*rows, config.heads, config.head_width)
    k = (normed @ layer["k"]).reshape(*rows, config.kv_heads, config.head_width)
    v = (normed @ layer["v"]).reshape(*rows, config.kv_heads, config.head_width)
    return _rotate(q, positions), _rotate(k, positions), v


def _llama_finish_layer(layer: dict[str, jax.Array], x: jax.Array, attended: jax.Array) -> jax.Array:
    x = x + attended @ layer["out"]
    normed = _rms_norm(layer["mlp_norm"], x)
    return x + (jax.nn.silu(normed @ layer["gate"]) * (normed @ layer["up"])) @ layer["down"]


def _rms_norm(scale: jax.Array, x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-5)
    return normed.astype(x.dtype) * scale


def _rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary embedding of x (batch, length, heads, head width), positions (length,)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = (positions[:, None] * frequencies)[:, None, :]
    sine, cosine = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)


def _grouped_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention of many query heads to few key heads; mask (queries, keys) is true where a query may look."""
    batch, length, heads, width = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], width)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, k).astype(jnp.float32) / width**0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9)).astype(v.dtype)
    return jnp.einsum("bkgqs,bskd->bqkgd", weights, v).reshape(batch, length, heads * width)


if __name__ == "__main__":
    import sys

    for written in write_models(sys.argv[1] if len(sys.argv) > 1 else "."):
        print(written)
