"""A store as a team has it after a month, for pictures: made up, and the same whenever it is made for the same moment.

Two serving models, one in training and two smaller ones compile on a few hosts that share the store; the compiler is
upgraded on the way, and some graphs come again with another option, variable or constant, so that misses have reasons.
Blobs have their length and no content: they are holes in files.
"""

import fcntl
import hashlib
import os
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.direct import Output
from neuron_store.store.events import Event, day_of, encode_event
from neuron_store.store.in_flight import ASKING, COMPILING, WAITING, folder_of
from neuron_store.store.layout import Layout
from neuron_store.store.registry.contexts import note_invocation
from neuron_store.store.remotes.answers import HIT, MISS, encode_answer
from neuron_store.store.results import Result, save_result

REMOTE = "hf://my-org/neuron-cache"
DAYS = 30
_DAY, _HOUR, _MINUTE, _MB = 86400.0, 3600.0, 60.0, 1_000_000
_OLD, _NEW = "2.20.9961.0+0acef03a", "2.21.33363.0+82129205"
_UPGRADED = 13  # days ago
_USER = 1000
_EPSILON = struct.pack("<f", 1e-5), struct.pack("<f", 1e-6)


@dataclass(frozen=True)
class _Graph:
    """One subgraph: its file's name, minutes of compile, MB of NEFF, and in what a later form of it differs."""

    module: str
    minutes: float
    megabytes: float
    more_flags: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    content: bytes = b""


@dataclass(frozen=True)
class _Model:
    """A model: its name, hosts, target, graphs; since when it runs (days ago), and how many ranks ask at once."""

    name: str
    hosts: tuple[str, ...]
    target: str
    graphs: tuple[_Graph, ...]
    since: int
    ranks: int
    kind: str = "transformer"
    fetched: bool = False  # whether another team had compiled it, and its results came from the remote


def _traced(name: str, count: int, minutes: float, megabytes: float) -> tuple[_Graph, ...]:
    """Return graphs named as torch-xla names them."""
    dice = random.Random(name)  # noqa: S311 - no secret
    return tuple(
        _Graph(
            f"model.MODULE_{dice.randrange(10**17, 10**18)}+4eddc804.hlo_module.pb",
            minutes * dice.uniform(0.2, 1.0),
            megabytes * dice.uniform(0.3, 1.0),
        )
        for _ in range(count)
    )


_SERVED = (
    _Graph("llama_prefill_512.hlo_module.pb", 11.4, 212),
    _Graph("llama_prefill_2048.hlo_module.pb", 22.6, 388, content=b"prefill"),
    _Graph("llama_prefill_8192.hlo_module.pb", 47.1, 655),
    _Graph("llama_decode.hlo_module.pb", 16.2, 301),
)
_TRAINED = _traced("train", 9, 38.0, 540)
_DIFFUSION = (
    _Graph("text_encoder.hlo_module.pb", 3.1, 41),
    _Graph("text_encoder_2.hlo_module.pb", 5.4, 118),
    _Graph("unet.hlo_module.pb", 41.8, 604),
    _Graph("vae_decoder.hlo_module.pb", 18.9, 96),
)
_QWEN = _Model("Qwen/Qwen2.5-7B-Instruct", ("trn2-a",), "trn2", _traced("qwen", 6, 26.0, 410), 18, 4)
_MODELS = (
    _Model("meta-llama/Llama-3.1-8B-Instruct", ("trn1-a", "trn1-b"), "trn1", _SERVED, 29, 1),
    _Model("meta-llama/Llama-3.1-8B", ("trn1-b", "trn1-c", "trn1-d"), "trn1", _TRAINED, 24, 8),
    _QWEN,
    _Model("BAAI/bge-base-en-v1.5", ("inf2-a",), "inf2", (_Graph("bge_base.hlo_module.pb", 2.3, 58),), 27, 2),
    _Model("stabilityai/stable-diffusion-xl-base-1.0", ("inf2-a",), "inf2", _DIFFUSION, 9, 1, "unet", fetched=True),
)
# Days ago -> what of a model comes in another form from then on: an option, a variable, a constant of the graph.
_CHANGES: dict[int, tuple[str, int, dict[str, object]]] = {
    6: ("meta-llama/Llama-3.1-8B", 2, {"more_flags": ("--optlevel=1",)}),
    4: ("Qwen/Qwen2.5-7B-Instruct", 1, {"environment": ("NEURON_RT_VIRTUAL_CORE_SIZE=1",)}),
    3: ("meta-llama/Llama-3.1-8B-Instruct", 1, {"content": b"changed"}),
    1: ("meta-llama/Llama-3.1-8B-Instruct", 3, {"more_flags": ("--enable-mixed-precision-accumulation",)}),
    0: ("meta-llama/Llama-3.1-8B", 6, {"more_flags": ("--optlevel=1",)}),
}


@dataclass
class _Filling:
    """A store that is being filled."""

    layout: Layout
    now: float
    dice: random.Random = field(default_factory=lambda: random.Random(21))  # noqa: S311 - no secret
    events: dict[str, list[Event]] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)  # key -> when it was stored

    def log(self, host: str, at: float, outcome: str, **fields: str) -> None:
        """Note an event, unless it is yet to come."""
        if at < self.now:
            self.events.setdefault(host, []).append(Event(at, outcome, fields))


def fill_store(layout: Layout, now: float) -> None:
    """Fill an empty store with what happened in the 30 days before `now` (Unix seconds). Raises OSError."""
    filling = _Filling(layout, now)
    graphs = {model.name: list(model.graphs) for model in _MODELS}
    for ago in range(DAYS - 1, -1, -1):
        changed = _CHANGES.get(ago)
        if changed:
            name, place, difference = changed
            graphs[name][place] = replace(graphs[name][place], **difference)  # type: ignore[arg-type]  # of any field
        for model in _MODELS:
            if ago <= model.since:
                _one_day(filling, model, graphs[model.name], ago)
    _last_minutes(filling, graphs)
    _write_events(filling)


def _one_day(filling: _Filling, model: _Model, graphs: Sequence[_Graph], ago: int) -> None:
    """Log the starts of a model on one day: the first compiles what is new, all others are served."""
    dice, noon = filling.dice, filling.now - ago * _DAY
    starts = dice.randint(2, 5) if ago % 7 not in (5, 6) else dice.randint(0, 2)
    for start in range(max(1, starts) if ago in _CHANGES or ago in (model.since, _UPGRADED) else starts):
        at = noon - 7 * _HOUR + start * 1.4 * _HOUR + dice.uniform(0, 900)
        host = dice.choice(model.hosts)
        version = _OLD if ago > _UPGRADED else _NEW
        filling.log(host, at, "pass_version", ms=f"{dice.uniform(6, 9):.1f}", compiler=version)
        for graph in graphs:
            at = _ask(filling, model, graph, host, at, version)


def _ask(filling: _Filling, model: _Model, graph: _Graph, host: str, at: float, version: str) -> float:
    """Let all ranks of a host ask for a graph; return when they have it."""
    dice, key = filling.dice, _key(model, graph, version)
    seconds, size = graph.minutes * _MINUTE * (1.1 if version == _OLD else 1.0), int(graph.megabytes * _MB)
    about = {"key": key, "module": graph.module, "compiler": version, "model": model.name, "seconds": f"{seconds:.3f}"}
    hits = model.ranks
    if key not in filling.stored:
        hits -= 1
        at = _first(filling, model, graph, host, at, version, about)
        about["incidents"] = "waited"
    for rank in range(hits):
        outcome = "hit_canonical" if rank == 0 and dice.random() < 0.12 else "hit_direct"
        spent = dice.uniform(40, 90) if outcome == "hit_canonical" else dice.uniform(9, 16)
        filling.log(host, at + (rank + 1) / 5, outcome, ms=f"{spent:.1f}", bytes=str(size), **about)
    return at + dice.uniform(2, 20)


def _first(
    filling: _Filling, model: _Model, graph: _Graph, host: str, at: float, version: str, about: Mapping[str, str]
) -> float:
    """Let a graph come into the store, from the remote or by a compile; return when it was there."""
    dice, key, size = filling.dice, about["key"], int(graph.megabytes * _MB)
    latency = dice.uniform(0.04, 0.19)
    asked = encode_answer(HIT if model.fetched else MISS, latency, REMOTE)
    if model.fetched:
        done = at + size / (90 * _MB)
        more = {"bytes": str(size), "fetched": str(size)}
        filling.log(host, done, "hit_remote", ms=f"{(done - at) * 1e3:.1f}", asked=asked, **more, **about)
    else:
        done = at + float(about["seconds"])
        filling.log(host, done, "miss_stored", ms=f"{latency * 1e3 + 55:.1f}", asked=asked, **about)
        filling.log(host, done + 40, "upload_done", key=key, bytes=str(size), compiler=version)
    if done < filling.now:
        filling.stored[key] = done
        _save(filling, model, graph, host, done, version, about)
    return done


def _key(model: _Model, graph: _Graph, version: str) -> str:
    return xxh3_hex(repr((model.name, graph, version)).encode())


# -- results -----------------------------------------------------------------------------------------------------------


def _save(
    filling: _Filling, model: _Model, graph: _Graph, host: str, at: float, version: str, about: Mapping[str, str]
) -> None:
    layout, key = filling.layout, about["key"]
    flags = ["--framework=XLA", f"--model-type={model.kind}", f"--target={model.target}", *graph.more_flags]
    content = hashlib.sha256(repr((model.name, graph.module, graph.content)).encode()).hexdigest()
    fields = {
        "compiler": [f"neuronx-cc {version}"],
        "flags": sorted(flags),
        "environment": list(graph.environment),
        "host": [],
        "hlo": ["canonical", content],
        "side_inputs": [],
    }
    result = Result(
        key=key,
        components=[
            {"name": name, "digest": xxh3_hex(repr((name, texts)).encode()), "fields": texts}
            for name, texts in fields.items()
        ],
        outputs={"neff": _hollow(layout, key, int(graph.megabytes * _MB))},
        interleave="",
        seconds=float(about["seconds"]),
        input_file={
            "name": graph.module,
            "path": "",
            "size": int(graph.megabytes * 2_100) + len(graph.module),
            "sha256": content,
            "proof": content,
            "mode": "canonical",
            "reason": None,
            "files": _kept_graph(layout, graph),
        },
        provenance={
            "created": at,
            "host": host,
            "user": _USER,
            "compiler": "/opt/venv/bin/neuronx-cc",
            "compiler_version": version,
            "command": ["neuronx-cc", "compile", graph.module, *flags, "--output", "graph.neff"],
            "directory": "/home/ubuntu/work",
            "neuron_store": "",
        },
    )
    save_result(layout, result)
    os.utime(layout.result_path(key), (filling.now - _HOUR, filling.now - _HOUR))
    said = {"NEURON_STORE_MODEL": model.name}
    module, seconds = graph.module, result.seconds
    note_invocation(layout, said, "hit_direct", key=key, version=version, seconds=seconds, module=module)


def _hollow(layout: Layout, key: str, size: int) -> Output:
    """Make a blob that has a size and no bytes."""
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    descriptor = layout.open_creating(layout.blob_path(sha256), os.O_WRONLY)
    os.truncate(descriptor, size)
    os.close(descriptor)
    return Output("neff", sha256, xxh3_hex(sha256.encode()), size, "raw", None)


def _kept_graph(layout: Layout, graph: _Graph) -> list[dict[str, object]]:
    """Keep a real graph with a result, where one is to be compared: the changed one has another epsilon."""
    if not graph.content:
        return []
    module = builtin_model("llama_prefill")
    descriptor = os.memfd_create("graph")
    try:
        os.write(descriptor, module if graph.content == b"prefill" else module.replace(*_EPSILON))
        blob = store_blob(layout, "neff", descriptor)
    finally:
        os.close(descriptor)
    kept = {"sha256": blob.sha256, "xxh3": blob.xxh3, "size": blob.size, "encoding": blob.encoding}
    return [{"kind": "graph", "name": graph.module, **kept}]


# -- events ------------------------------------------------------------------------------------------------------------


def _last_minutes(filling: _Filling, graphs: Mapping[str, Sequence[_Graph]]) -> None:
    """Log a few odd ones, and what came just now."""
    now = filling.now
    for ago, detail in ((19.3, "exit code 70"), (8.2, "exit code 70"), (2.4, "exit code 1")):
        filling.log("trn1-c", now - ago * _DAY, "miss_failed", ms="61.0", module=_TRAINED[4].module, detail=detail)
    filling.log("trn1-d", now - 5.1 * _DAY, "pass_list_operators", ms="7.4")
    trained, served = _MODELS[1], _MODELS[0]
    lately = (
        (61, "trn1-c", trained, graphs[trained.name][0]),
        (54, "trn1-d", trained, graphs[trained.name][3]),
        (47, "trn1-a", served, graphs[served.name][0]),
        (33, "trn1-c", trained, graphs[trained.name][5]),
        (21, "trn1-a", served, graphs[served.name][2]),
        (9, "trn1-d", trained, graphs[trained.name][7]),
        (4, "trn1-a", served, graphs[served.name][1]),
    )
    for ago, host, model, graph in lately:
        _ask(filling, replace(model, ranks=1), graph, host, now - ago, _NEW)
    for graph in graphs[trained.name]:
        _ask(filling, trained, graph, "trn1-c", now - 2400, _NEW)
    new = replace(graphs[_QWEN.name][3], more_flags=("--optlevel=1",))
    _ask(filling, replace(_QWEN, ranks=1), new, "trn2-a", now - 38 - new.minutes * _MINUTE, _NEW)


def _write_events(filling: _Filling) -> None:
    """Write the log: a file for each day and host."""
    for host, events in sorted(filling.events.items()):
        days: dict[str, list[Event]] = {}
        for event in sorted(events, key=lambda event: event.time):
            days.setdefault(day_of(event.time), []).append(event)
        for day, of_day in days.items():
            path = filling.layout.event_path(f"{day}-{_USER}-{host}")
            filling.layout.write_file(path, b"".join(map(encode_event, of_day)))


# -- what is under way -------------------------------------------------------------------------------------------------


def queue_some(layout: Layout, remote: str, now: float) -> None:
    """Queue two results for a remote (16 hex digits). Raises OSError."""
    for number, seconds in enumerate((95.0, 31.0)):
        entry = f"1 {now - seconds:.3f} add {number:08x}\n".encode()
        layout.write_file(layout.queue_path(remote, xxh3_hex(b"queued %d" % number)), entry)


def _recompiled(layout: Layout, now: float, graph: _Graph) -> None:
    """Log a compile of long ago whose result is gone: how long it takes is known."""
    fields = {"key": _key(_MODELS[0], graph, _NEW), "module": graph.module, "seconds": "1269", "compiler": _NEW}
    event = Event(now - 11 * _DAY, "miss_stored", fields)
    layout.write_file(layout.event_path(f"{day_of(event.time)}-{_USER}-trn1-f"), encode_event(event))


@contextmanager
def in_flight(layout: Layout, now: float) -> Iterator[None]:
    """Let compiles be under way as long as the context lasts: this process holds the locks by which they live."""
    trained, graphs = _MODELS[1], _MODELS[1].graphs
    new = replace(graphs[8], more_flags=("--optlevel=3",))
    unknown = _Graph("llama_speculation_2048.hlo_module.pb", 0, 0)
    _recompiled(layout, now, longer := replace(_MODELS[0].graphs[2], more_flags=("--optlevel=3",)))
    flights = [("trn1-c", 4100, trained, new, ((ASKING, 725.0), (COMPILING, 724.4)))]
    flights += [
        ("trn1-c", 4101 + rank, trained, new, ((ASKING, 724.0 - rank / 10), (WAITING, 723.0))) for rank in range(31)
    ]
    flights.append(("trn1-a", 2213, _MODELS[0], longer, ((ASKING, 231.0), (COMPILING, 230.5))))
    flights.append(("trn1-a", 2240, _MODELS[0], unknown, ((ASKING, 8.6), (COMPILING, 8.2))))
    descriptors = []
    try:
        for host, pid, model, graph, states in flights:
            said = {"key": _key(model, graph, _NEW), "module": graph.module, "model": model.name, "host": host}
            words = ["neuron-store in-flight 1", *(f"{name}={text}" for name, text in said.items()), f"pid={pid}"]
            words += [f"{state}={now - ago:.3f}" for state, ago in states]
            path = f"{folder_of(layout)}/{pid}-{pid:012x}"
            layout.write_file(path, "".join(word + "\0" for word in words).encode())
            descriptors.append(os.open(path, os.O_RDONLY))
            fcntl.flock(descriptors[-1], fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
