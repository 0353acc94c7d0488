"""Which remotes there are: how a setting's word is read, and what the seed's variables and files put before it.

    hf://[datasets/]<org>/<name>[@<revision>]      a repo on the Hub (models, where nothing is said)
    file:///<folder>                               a folder that hosts share
    …|read-only, …|read-write                      a remote is read-write where nothing is said

A revision of 40 hex digits is a commit, which nothing can be added to: read-only. CUSTOM_CACHE_REPO, or else the name
that `neuron-store set` (or optimum-neuron's) saved, comes before all that the setting lists. The word `none` in the
setting means no remote at all, whatever else is named.
"""

import os
import re

from neuron_store.store.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NO_REMOTE = "none"
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
DEFAULT_ENDPOINT = "https://huggingface.co"
SAVED_NAME_FILE = "optimum_neuron_custom_cache"  # optimum-neuron's own name for it
_MODES = {"read-only": False, "ro": False, "read-write": True, "rw": True, "": True}
_REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,95})")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Who an address says we are. A password may have a slash in it; what has no colon before one is no password.
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^\s/@:\"'<>]*:[^\s\"'<>]*|[^\s/\"'<>]+)@"
    r"|^[^\s/:@\"'<>]+:[^\s/\"'<>]+@"  # without its scheme
)
_STORED_TOKEN = re.compile(r"^\s*hf_token\s*=\s*(\S+)", re.MULTILINE)
_LARGEST_NAME = 16384  # bytes of the saved name's file, or of a token's; some tokens tell a lot about their owner


class Location:
    """Where a remote is.

    Attributes:
        scheme: "hf" or "file".
        place: a repo's id, or an absolute folder.
        repo_type: "model" or "dataset".
        revision: a branch, tag or commit.
        writable: whether it may be written to.
        source: which setting, variable or file names it.
    """

    __slots__ = ("place", "repo_type", "revision", "scheme", "source", "writable")

    def __init__(
        self, scheme: str, place: str, *, writable: bool, repo_type: str = "model", revision: str = "main"
    ) -> None:
        self.scheme = scheme
        self.place = place
        self.repo_type = repo_type
        self.revision = revision
        self.writable = writable
        self.source = "remotes"

    @property
    def url(self) -> str:
        """The location in one word, without its mode."""
        if self.scheme == "file":
            return "file://" + self.place
        datasets = "datasets/" if self.repo_type == "dataset" else ""
        at = "" if self.revision == "main" else "@" + self.revision
        return f"hf://{datasets}{self.place}{at}"


def read_location(word: str) -> Location:
    """Read one word of the setting. Raises ConfigurationError."""
    url, _, mode = word.partition("|")
    if mode not in _MODES:
        raise ConfigurationError(f"remote {without_credentials(word)!r}: after | stands read-only or read-write")
    if url.startswith("hf://"):
        return _read_hub(word, url.removeprefix("hf://").rstrip("/"), writable=_MODES[mode])
    if url.startswith("file:///"):
        folder = os.path.normpath(url.removeprefix("file://"))
        if "\0" in folder or folder.strip("/") == "":
            raise ConfigurationError(f"remote {without_credentials(word)!r}: it names no folder of its own")
        return Location("file", "/" + folder.lstrip("/"), writable=_MODES[mode])
    raise ConfigurationError(
        f"remote {without_credentials(word)!r} is neither hf://[datasets/]org/name[@revision] nor file:///folder"
    )


def _read_hub(word: str, written: str, *, writable: bool) -> Location:
    repo_type = "dataset" if written.startswith("datasets/") else "model"
    repo, at, revision = written.removeprefix("datasets/").removeprefix("models/").partition("@")
    if not is_repo_name(repo) or (at and not _REVISION.fullmatch(revision)) or ".." in revision:
        raise ConfigurationError(
            f"remote {without_credentials(word)!r}: a repo is written org/name, perhaps with @revision after it"
        )
    revision = revision or "main"
    writable = writable and not _COMMIT.fullmatch(revision)
    return Location("hf", repo, writable=writable, repo_type=repo_type, revision=revision)


def without_credentials(text: str) -> str:
    """Return an address, or a text with addresses, without who they say we are: hf://<token>@org/name."""
    return _CREDENTIALS.sub("<token>@", text)


def is_repo_name(name: str) -> bool:
    """Tell whether `name` is `org/name`, as the Hub allows it."""
    return (
        bool(_REPO.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith((".git", ".", "-"))
    )


def list_locations(words: "Iterable[str]", environ: "Mapping[str, str]") -> "tuple[list[Location], list[str]]":
    """Return all remotes in order, each once, and what is wrong with those that were left out."""
    words = list(words)
    if NO_REMOTE in words:
        return [], []
    found: dict[str, Location] = {}
    faults = []
    for word, source in [*_seed_names(environ), *((word, "remotes") for word in words)]:
        try:
            location = read_location(word)
        except ConfigurationError as error:
            faults.append(f"{error} ({source})")
            continue
        location.source = source
        found.setdefault(location.url, location)
    return list(found.values()), faults


def _seed_names(environ: "Mapping[str, str]") -> "list[tuple[str, str]]":
    custom = environ.get("CUSTOM_CACHE_REPO", "").strip()
    if custom:
        return [(custom if "://" in custom else "hf://" + custom, "CUSTOM_CACHE_REPO")]
    path = saved_name_path(environ)
    saved = _read_small(path)
    return [(saved if "://" in saved else "hf://" + saved, path)] if saved else []


def hub_home(environ: "Mapping[str, str]") -> str:
    """Return huggingface_hub's own folder on this host: $HF_HOME, or where it is by default."""
    home = environ.get("HF_HOME", "")
    if not home:
        cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
        home = os.path.join(cache, "huggingface")
    return os.path.expanduser(os.path.expandvars(home))


def saved_name_path(environ: "Mapping[str, str]") -> str:
    """Return the file in which the name of one's own cache repo is saved."""
    return os.path.join(hub_home(environ), SAVED_NAME_FILE)


def hub_endpoint(environ: "Mapping[str, str]") -> str:
    """Return the Hub's address."""
    return (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def hub_offline(environ: "Mapping[str, str]") -> bool:
    """Tell whether the user asked huggingface_hub to stay offline."""
    return _is_true(environ.get("HF_HUB_OFFLINE", ""))


def hub_token(environ: "Mapping[str, str]") -> str:
    """Return the token that huggingface_hub would use, "" if there is none."""
    return hub_token_and_source(environ)[0]


def hub_token_and_source(environ: "Mapping[str, str]") -> "tuple[str, str]":
    """Return the token that huggingface_hub would use, and the variable or file that it is in; "" and "" for none."""
    for name in _TOKEN_VARIABLES:
        if environ.get(name, "").strip():
            return environ[name].strip(), name
    if _is_true(environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "")):
        return "", ""
    path = hub_token_path(environ)
    token = _read_small(path)
    return (token, path) if token else ("", "")


def all_hub_tokens(environ: "Mapping[str, str]") -> "list[str]":
    """Return every token for the Hub that this user has, also those that are not the one in use."""
    home = environ.get("HOME") or os.path.expanduser("~")
    files = {hub_token_path(environ), os.path.join(home, ".cache", "huggingface", "token")}
    found = {environ.get(name, "").strip() for name in _TOKEN_VARIABLES} | {_read_small(path) for path in files}
    for path in files:  # `hf auth login` keeps the tokens of other names beside it
        found.update(_STORED_TOKEN.findall(_read_small(os.path.join(os.path.dirname(path), "stored_tokens"))))
    return sorted(found - {""})


def hub_token_path(environ: "Mapping[str, str]") -> str:
    """Return the file in which huggingface_hub saves a token."""
    path = environ.get("HF_TOKEN_PATH")
    return os.path.expandvars(os.path.expanduser(path)) if path else os.path.join(hub_home(environ), "token")


def _read_small(path: str) -> str:
    from neuron_store.hashing.inputs import open_regular

    try:
        descriptor = open_regular(path)
        try:
            written = os.read(descriptor, _LARGEST_NAME + 1)
            return "" if len(written) > _LARGEST_NAME else written.decode().strip()
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return ""


def _is_true(text: str) -> bool:
    return text.upper() in ("1", "ON", "YES", "TRUE")
