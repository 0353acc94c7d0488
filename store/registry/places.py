r"""Where a remote keeps entries of the registry, in every layout that optimum-neuron has had.

    neuronxcc-<version>/0_REGISTRY/<release>/<where>/<20 hex>.json

    release = of optimum-neuron: "0.4.5"
    where   = <model type>/<model id>                         up to 0.0.18, 0.2.0 to 0.4.4; an alias from 0.4.5 on
            | training|inference/<model type>/<model id>      0.0.19 to 0.1.0
            | <architecture's digest, 64 hex>                 from 0.4.5 on: what its lookup lists
            | <our own digest of the architecture, 64 hex>    all entries of ours, also those that it cannot list
    model id = <org>/<name>, or <name> alone; of a model on some host's disk: local/<name>

Whatever else lies in a registry is no entry.
"""

import re

from neuron_store.store.layout import is_hex
from neuron_store.store.remotes.base import FOLDER_PREFIX, version_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

REGISTRY = "0_REGISTRY"
NEWEST_RELEASE = "0.4.5"  # the newest optimum-neuron whose layout is known
LOCAL = "local"  # the org of models that are no Hub's
_NAME_LENGTH, _DIGEST_LENGTH = 20, 64
_MODES = ("training", "inference")
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,127})")
_RELEASE = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?[A-Za-z0-9.+-]{0,30}")
_BY_DIGEST_FROM = (0, 4, 5)


class Place:
    """Where an entry is.

    Attributes:
        path: its whole name in the remote.
        compiler: the compiler's version.
        release: optimum-neuron's.
        mode: "training" or "inference" in the layouts that tell them apart, else "".
        digest: of the architecture, "" where the entry lies under its model's name.
        model_type, model_id: "" where it lies under a digest.
        name: 20 hex digits.
    """

    __slots__ = ("compiler", "digest", "mode", "model_id", "model_type", "name", "path", "release")

    def __init__(self, path: str) -> None:
        """Read a path. Raises ValueError for what is no place of an entry."""
        self.path = path
        self.mode = self.digest = self.model_type = self.model_id = ""
        parts = path.split("/")
        if len(parts) < 5 or parts[1] != REGISTRY or not parts[0].startswith(FOLDER_PREFIX):
            raise ValueError(f"no place in a registry: {path!r}")
        self.compiler, self.release = parts[0].removeprefix(FOLDER_PREFIX), parts[2]
        self.name, dot, suffix = parts[-1].partition(".")
        where = parts[3:-1]
        if where[0] in _MODES and len(where) > 2:
            self.mode, where = where[0], where[1:]
        if len(where) == 1 and is_hex(where[0], _DIGEST_LENGTH):
            self.digest = where[0]
        elif 2 <= len(where) <= 3:
            self.model_type, self.model_id = where[0], "/".join(where[1:])
        else:
            raise ValueError(f"no place in a registry: {path!r}")
        known = version_folder(self.compiler) == parts[0] and is_release(self.release)
        well_named = is_hex(self.name, _NAME_LENGTH) and dot + suffix == ".json"
        if not (known and well_named and (self.digest or all(map(is_part, where)))):
            raise ValueError(f"no place in a registry: {path!r}")


def is_part(text: str) -> bool:
    """Tell whether `text` can be one part of a model's id, or its type."""
    return bool(_PART.fullmatch(text)) and ".." not in text


def is_model_id(text: str) -> bool:
    """Tell whether `text` can name a model in a registry: org/name, or a name alone."""
    parts = text.split("/")
    return len(parts) <= 2 and all(map(is_part, parts))


def local_id(folder_name: str) -> str:
    """Return the id of a model that lies in a folder of that name: `local/<name>`."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", folder_name).lstrip("._+-").replace("..", ".")[:96]
    return f"{LOCAL}/{name or 'model'}"


def is_release(text: str) -> bool:
    """Tell whether `text` is a version of optimum-neuron, as registries have it in their paths."""
    return bool(_RELEASE.fullmatch(text))


def files_by_digest(release: str) -> bool:
    """Tell whether that version of optimum-neuron looks entries up by the architecture's digest."""
    match = _RELEASE.fullmatch(release)
    return match is not None and tuple(int(number or 0) for number in match.groups()) >= _BY_DIGEST_FROM


def registry_folder(compiler: str) -> str:
    """Return the folder of all entries for a compiler's version."""
    return f"{version_folder(compiler)}/{REGISTRY}"


def entry_paths(
    compiler: str, release: str, model_type: str, model_id: str, name: str, digests: "Sequence[str]"
) -> "list[str]":
    """Return every path at which an entry is written: under its model's name, and under each digest.

    Raises ValueError if one of these is no place.
    """
    base = f"{registry_folder(compiler)}/{release}"
    folders = [f"{model_type}/{model_id}", *(digests if files_by_digest(release) else ())]
    return [Place(f"{base}/{folder}/{name}.json").path for folder in dict.fromkeys(folders)]
