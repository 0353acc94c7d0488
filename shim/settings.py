"""Settings: defaults, then `config.toml`, then `NEURON_STORE_<NAME>` in the environment.

The hit path cannot afford a TOML parser (20 ms), so the plain subset of it that settings need is read here, and
any line outside that subset hands the whole file to the real parser.
"""

import os
import sys

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Value = str | int | float | bool | tuple[str, ...]

PREFIX = "NEURON_STORE_"
_LARGEST_CONFIG = 1 << 20  # bytes
# Variables of ours in the environment that are not settings.
OTHER_VARIABLES = ("NEURON_STORE_ACTIVE", "NEURON_STORE_CONFIG", "NEURON_STORE_RUN")

OFFICIAL_REMOTE = "hf://aws-neuron/optimum-neuron-cache|read-only"

# name: (kind, default or None where it depends on the host, what it does)
SETTINGS: dict[str, tuple[str, "Value | None", str]] = {
    "audit_percent": ("number", 0.0, "share of canonical hits that are compiled again in the background and compared"),
    "compiler": ("path", "", "the real neuronx-cc; empty: the next one on PATH"),
    "compression_level": ("integer", 3, "zstd level of stored outputs, 1 to 19; 0 stores them as they are"),
    "debug_info": ("word", "auto", "exact: names and metadata of the HLO stay in the key; auto: if debugging asks"),
    "dir": ("path", None, "the local store"),
    "enabled": ("boolean", True, "false: every invocation goes to the real compiler"),
    "keep_inputs_bytes": (
        "integer",
        64 << 20,
        "inputs up to this size are kept with a result, to explain and audit it",
    ),
    "keep_compilers": ("integer", 0, "results of so many compiler versions are kept, those used last; 0: of all"),
    "key_env": ("word", "", "environment variables that belong in the key besides the known ones, with spaces between"),
    "key_salt": ("word", "", "any text; results are shared only by those who have the same"),
    "lock_timeout": ("number", 10800.0, "seconds to wait for another process that compiles the same key"),
    "log_file": ("path", None, "where the shim writes what went wrong"),
    "max_age": ("time", 0.0, "results unused for longer are collected: 30d, 12h, or seconds; 0: never"),
    "max_count": ("integer", 0, "results beyond so many are collected, the least recently used first; 0: no limit"),
    "max_event_age": (
        "time",
        34560000.0,
        "events, which `neuron-store stats` counts, are kept so long: 400d; 0: for ever",
    ),
    "max_log_bytes": ("integer", 1 << 30, "bytes of stdout and stderr beyond which a result is not stored"),
    "max_size": ("bytes", 0, "beyond this size (200G) the least recently used results are collected; 0: no limit"),
    "min_free": (
        "share",
        "5%",
        "while less of the disk is free (5%, 50G), results unused for a day are collected, the oldest first; 0: never",
    ),
    "precompile_memory_gb": (
        "number",
        10.0,
        "memory that one compile may need, in GB: `precompile` runs no more than fit",
    ),
    "read_only": ("boolean", False, "true: serve hits, store nothing"),
    "recache": ("boolean", False, "true: compile even if there is a hit, and store the new result"),
    "remote_connect_timeout": ("number", 3.0, "seconds to reach a remote; then it is left alone for a minute or more"),
    "remote_first_byte_timeout": ("number", 10.0, "seconds to wait for a remote's answer to begin"),
    "remote_max_bytes": ("integer", 8 << 30, "an output larger than this is not taken from a remote"),
    "remote_min_rate": ("integer", 100_000, "bytes per second below which a download is given up"),
    "remotes": (
        "list",
        (OFFICIAL_REMOTE,),
        "stores elsewhere, in order: hf://[datasets/]org/name[@revision] or file:///folder, |read-only after it; or none",
    ),
    "stock": ("boolean", True, "false: entries of stock caches in the remotes are not looked for"),
    "stock_by_name": (
        "boolean",
        False,
        "true: entries of stock caches are believed by their name: not by graph, options, kernels and environment",
    ),
    "upload": ("boolean", True, "false: results are queued, but only `neuron-store push` uploads them"),
    "upload_commits_per_hour": ("integer", 30, "commits that this host makes to one remote in an hour, at most"),
    "upload_inputs": ("boolean", False, "true: the inputs that are kept with a result are uploaded with it"),
    "upload_max_age": ("number", 120.0, "seconds after which a queued result is uploaded though others keep coming"),
    "upload_quiet": ("number", 10.0, "seconds without a new result after which the queue is uploaded"),
    "upload_retry": ("number", 5.0, "seconds before a failed upload is tried again, doubled each time"),
    "upload_timeout": ("number", 120.0, "seconds without an answer after which an upload's request is given up"),
    "xet": ("word", "auto", "how the Hub gets files: on: by Xet; off: by plain LFS; auto: by what the server has"),
}
_ANY = (0, float("inf"))
_POSITIVE = (1e-3, float("inf"))
_LIMITS = {
    "audit_percent": (0, 100),
    "compression_level": (0, 19),
    "keep_inputs_bytes": _ANY,
    "keep_compilers": _ANY,
    "lock_timeout": _ANY,
    "max_age": _ANY,
    "max_count": _ANY,
    "max_event_age": _ANY,
    "max_log_bytes": _ANY,
    "max_size": _ANY,
    "precompile_memory_gb": _ANY,
    "remote_connect_timeout": _POSITIVE,
    "remote_first_byte_timeout": _POSITIVE,
    "remote_max_bytes": _ANY,
    "remote_min_rate": _ANY,
    "upload_commits_per_hour": (1, 1000),
    "upload_max_age": _ANY,
    "upload_quiet": _ANY,
    "upload_retry": _POSITIVE,
    "upload_timeout": _POSITIVE,
}
_QUANTITIES = {"bytes": "integer", "time": "number", "share": "word"}  # and as what each is checked
CHOICES = {"debug_info": ("auto", "exact"), "xet": ("auto", "on", "off")}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Settings:
    """All settings, each with its type.

    Attributes:
        sources: name -> `default`, the configuration file's path, or the environment variable's name.
    """

    __slots__ = (*SETTINGS, "sources")

    audit_percent: float
    compiler: str
    compression_level: int
    debug_info: str
    dir: str
    enabled: bool
    keep_inputs_bytes: int
    keep_compilers: int
    key_env: str
    key_salt: str
    lock_timeout: float
    log_file: str
    max_age: float
    max_count: int
    max_event_age: float
    max_log_bytes: int
    max_size: int
    min_free: str
    precompile_memory_gb: float
    read_only: bool
    recache: bool
    remote_connect_timeout: float
    remote_first_byte_timeout: float
    remote_max_bytes: int
    remote_min_rate: int
    remotes: tuple[str, ...]
    stock: bool
    stock_by_name: bool
    upload: bool
    upload_commits_per_hour: int
    upload_inputs: bool
    upload_max_age: float
    upload_quiet: float
    upload_retry: float
    upload_timeout: float
    xet: str
    sources: dict[str, str]


def load_settings(environ: "Mapping[str, str]", *, tolerant: bool = False) -> Settings:
    """Return the settings in force.

    Raises ConfigurationError for a value that a setting cannot have; if `tolerant`, the default stands in its place.
    """
    settings = Settings()
    settings.sources = {}
    path = config_path(environ)
    try:
        from_file = read_config(path)
    except ConfigurationError:
        if not tolerant:
            raise
        from_file = {}
    for name in SETTINGS:
        try:
            value, source = _value_of(name, environ, from_file, path)
        except ConfigurationError:
            if not tolerant:
                raise
            value, source = default_value(name, environ), "default"
        setattr(settings, name, value)
        settings.sources[name] = source
    return settings


def _value_of(name: str, environ: "Mapping[str, str]", from_file: "dict[str, Value]", path: str) -> "tuple[Value, str]":
    """Return a setting's value and where it came from. An empty one is as if it were not set."""
    variable = PREFIX + name.upper()
    if environ.get(variable):
        return _from_text(name, environ[variable], variable), variable
    if from_file.get(name, "") != "":
        return _checked(name, from_file[name], f"{name} in {path}"), path
    return default_value(name, environ), "default"


def default_value(name: str, environ: "Mapping[str, str]") -> "Value":
    """Return a setting's default on this host."""
    if name == "dir":
        return f"{_base_folder(environ, 'XDG_CACHE_HOME', '.cache')}/neuron-store"
    if name == "log_file":
        return f"{state_folder(environ)}/shim.log"
    default = SETTINGS[name][1]
    if default is None:
        raise KeyError(name)
    return default


def state_folder(environ: "Mapping[str, str]") -> str:
    """Return where the log, and events that a store cannot take, are kept."""
    return f"{_base_folder(environ, 'XDG_STATE_HOME', '.local/state')}/neuron-store"


def config_path(environ: "Mapping[str, str]") -> str:
    """Return the path of the configuration file, which need not exist."""
    path = environ.get("NEURON_STORE_CONFIG")
    return path or f"{_base_folder(environ, 'XDG_CONFIG_HOME', '.config')}/neuron-store/config.toml"


def _base_folder(environ: "Mapping[str, str]", variable: str, below_home: str) -> str:
    # The XDG specification: a relative path in these variables is ignored.
    base = environ.get(variable, "")
    if base.startswith("/"):
        return base
    home = environ.get("HOME") or os.path.expanduser("~")
    if not home.startswith("/"):  # a user without a home must not get a store in every current folder
        home = "/"
    return f"{home.rstrip('/')}/{below_home}"


def read_config(path: str) -> "dict[str, Value]":
    """Return what the configuration file sets; {} if there is none. Raises ConfigurationError."""
    if path == os.devnull:
        return {}
    try:
        text = _read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}); mend it or remove it") from error
    values = _read_plain(text)
    return _read_toml(text, path) if values is None else values


def _read_text(path: str) -> str:
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > _LARGEST_CONFIG:
            raise OSError(f"it is larger than {_LARGEST_CONFIG} bytes")
        return os.read(descriptor, size).decode()
    finally:
        os.close(descriptor)


def _read_plain(text: str) -> "dict[str, Value] | None":
    """Read lines of `name = true|false|integer|"plain string"|["plain string", …]`; None if there is any other line."""
    values: dict[str, Value] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        stripped = line.strip(" \t")
        if not stripped or (stripped[0] == "#" and stripped.isprintable()):
            continue
        name, equals, written = (part.strip(" \t") for part in stripped.partition("="))
        value = _plain_list(written) if written[:1] == "[" else _plain_value(written)
        if not equals or value is None or not name.isidentifier() or not name.isascii() or name in values:
            return None
        values[name] = value
    return values


def _plain_value(written: str) -> "Value | None":
    if written in ("true", "false"):
        return written == "true"
    if written.isdigit() and written.isascii() and (written[0] != "0" or written == "0") and len(written) < 20:
        return int(written)
    inside = written[1:-1]
    if len(written) > 1 and written[0] == written[-1] == '"' and inside.isprintable():
        return None if '"' in inside or "\\" in inside else inside
    return None


def _plain_list(written: str) -> "Value | None":
    """Return a list of plain strings without a comma in them, None if it is anything else."""
    if written[-1] != "]":
        return None
    inside = written[1:-1].strip(" \t")
    values = [_plain_value(part.strip(" \t")) for part in inside.split(",")] if inside else []
    strings = tuple(value for value in values if isinstance(value, str))
    return strings if len(strings) == len(values) else None


def _read_toml(text: str, path: str) -> "dict[str, Value]":
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError is also a number of too many digits
        raise ConfigurationError(f"{path} is not TOML: {error}; mend it or remove it") from error


def _from_text(name: str, text: str, where: str) -> "Value":
    kind = SETTINGS[name][0]
    value: Value = text
    try:
        if kind == "boolean":
            value = _WORDS[text.strip().lower()]
        elif kind == "integer":
            value = int(text)
        elif kind == "number":
            value = float(text)
        elif kind == "list":
            value = tuple(text.split())
    except (KeyError, ValueError):
        raise ConfigurationError(f"{where} is {text!r}, which is not {_a(kind)}") from None
    return _checked(name, value, where)


def _checked(name: str, value: "Value", where: str) -> "Value":
    kind = SETTINGS[name][0]
    if kind == "list":
        return _checked_list(value, where)
    if kind in _QUANTITIES:
        value, kind = _read_quantity(kind, value, where)
    return _checked_plain(name, kind, value, where)


def _checked_plain(name: str, kind: str, value: "Value", where: str) -> "Value":
    if kind == "number" and type(value) is int:
        value = float(value)
    expected = {"boolean": bool, "integer": int, "number": float, "path": str, "word": str}[kind]
    if type(value) is not expected:
        raise ConfigurationError(f"{where} is {value!r}, which is not {_a(kind)}")
    if kind == "word":
        if value and value not in CHOICES.get(name, (value,)):
            raise ConfigurationError(f"{where} is {value!r}, which is not {' or '.join(CHOICES[name])}")
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigurationError(f"{where} is {value!r}, which no file can be named")
        return os.path.abspath(os.path.expanduser(value)) if value else value
    if isinstance(value, tuple):  # dealt with above
        return value
    low, high = _LIMITS.get(name, (value, value))
    if not low <= value <= high:
        raise ConfigurationError(f"{where} is {value}, which is not from {low} to {high}")
    return value


def _read_quantity(kind: str, value: "Value", where: str) -> "tuple[Value, str]":
    """Return what a quantity means, and as which simpler kind it is to be checked."""
    from neuron_store.shim.quantities import read_bytes, read_seconds, read_share

    try:
        if isinstance(value, bool | tuple):
            raise ValueError(value)  # noqa: TRY301, TRY004 - told below like any other
        if kind == "share":
            read_share(str(value), 1)
            return str(value), "word"
        if isinstance(value, str):
            value = read_bytes(value) if kind == "bytes" else read_seconds(value)
    except ValueError:
        raise ConfigurationError(f"{where} is {value!r}, which is not {_a(kind)}") from None
    return value, _QUANTITIES[kind]


def _checked_list(value: "object", where: str) -> tuple[str, ...]:
    words = tuple(value.split()) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) and word for word in words):
        raise ConfigurationError(f"{where} is {value!r}, which is not {_a('list')}")
    return tuple(words)


def parse_setting(name: str, text: str) -> "Value":
    """Return the value that `text` means for setting `name`. Raises ConfigurationError."""
    if name not in SETTINGS:
        raise ConfigurationError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
    return _from_text(name, text, name)


def _a(kind: str) -> str:
    return {
        "boolean": "true or false",
        "bytes": "a number of bytes such as 200G",
        "integer": "an integer",
        "list": "words with spaces between",
        "number": "a number",
        "path": "a path",
        "share": "a share such as 5% or a number of bytes such as 50G",
        "time": "a time such as 30d, 12h or a number of seconds",
        "word": "text",
    }[kind]
