"""Files that an HLO module reaches by a path in a custom call: NKI kernels.

A custom call with target `AwsNeuronCustomNativeKernel` has a backend_config that is base64 of JSON, and the JSON names
files (`klir_binary.binary` in one format, others for kernel_format bir and colz) whose path is random and whose
content is compiled. So the content is in the key and the path is not. The compiler looks a file up at its path, then
at <current directory>/<last folder of the path>/<file name>.
"""

import base64
import binascii
import hashlib
import json
import os

from neuron_store.hashing.inputs import CHUNK, signature
from neuron_store.hashing.kept_text import ABSOLUTE_PATHS
from neuron_store.hashing.not_cacheable import NotCacheable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NKI_KERNEL_TARGET = b"AwsNeuronCustomNativeKernel"
_DEEPEST = 50  # levels of JSON
_REWRITTEN = b"\0side files "


class SideFile:
    """A file that a module reaches by path.

    Attributes:
        written: the path as the module has it.
        found: where the file was found.
        sha256: of its content.
        signature: its state when it was read.
    """

    __slots__ = ("found", "sha256", "signature", "written")

    def __init__(self, written: str, found: str, sha256: str, state: tuple[int, ...]) -> None:
        self.written = written
        self.found = found
        self.sha256 = sha256
        self.signature = state

    def holds(self) -> bool:
        """Tell whether the path still leads to the same content: by the file's state, else by its bytes."""
        found = find_side_file(self.written)
        if not found:
            return False
        try:
            if signature(os.stat(found)) == self.signature:
                return True
            return read_side_file(self.written, found).sha256 == self.sha256
        except OSError:
            return False


def find_side_file(written: str) -> str:
    """Return where the compiler finds the file, in its own order, or ""."""
    folder, name = os.path.split(written)
    for candidate in (written, os.path.join(os.path.basename(folder), name)):
        if os.path.isfile(candidate):
            return candidate
    return ""


def read_side_file(written: str, found: str) -> SideFile:
    """Hash a side file. Raises OSError."""
    digest = hashlib.sha256()
    with open(found, "rb", buffering=0) as file:
        state = signature(os.fstat(file.fileno()))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return SideFile(written, found, digest.hexdigest(), state)


class KernelConfigs:
    """Rewrites backend configurations: the content of files in place of their paths.

    Attributes:
        files: written path -> SideFile, all that were found.
    """

    def __init__(self, find: "Callable[[str], str] | None" = None) -> None:
        """`find` returns where the file of a written path is, "" if it is not there: by default, as the compiler does."""
        self.files: dict[str, SideFile] = {}
        self._find = find or find_side_file

    def rewrite(self, target: bytes, config: bytes) -> bytes:
        """Return what stands for `config` in the key: itself, unless it names files.

        Raises NotCacheable for a path that leads nowhere, or a mention of a file that is not understood.
        """
        is_kernel = target == NKI_KERNEL_TARGET
        if config.startswith(_REWRITTEN):
            raise NotCacheable("side_file", "a custom call's configuration looks like what stands for one")
        document = _read_json(config)
        if document is None:
            if is_kernel:
                raise NotCacheable("nki_kernel", "a kernel's configuration is not base64 of JSON")
            self._refuse_mentions(config)
            self._refuse_mentions(_from_base64(config) or b"")
            return config
        used: list[str] = []
        neutral = self._neutral(document, used, 0)
        if not used:
            if is_kernel:
                raise NotCacheable("nki_kernel", "a kernel's configuration names no file that is there")
            return config
        return _REWRITTEN + json.dumps(neutral, ensure_ascii=True).encode()

    def _refuse_mentions(self, config: bytes) -> None:
        for path in ABSOLUTE_PATHS.findall(config):
            if path.strip(b"/") and os.path.exists(path):
                raise NotCacheable("side_file", f"a custom call mentions {os.fsdecode(path)}")

    def _neutral(self, value: "Any", used: list[str], depth: int) -> "Any":  # noqa: ANN401 - JSON
        if depth > _DEEPEST:
            raise NotCacheable("side_file", "a custom call's configuration is nested too deeply")
        if isinstance(value, _Pairs):
            for key, _ in value.pairs:
                self._refuse_mentions(key.encode("utf-8", "surrogatepass"))
            return [["{}", key, self._neutral(inner, used, depth + 1)] for key, inner in value.pairs]
        if isinstance(value, list):
            return ["[]", *(self._neutral(inner, used, depth + 1) for inner in value)]
        if isinstance(value, str) and not isinstance(value, _Literal):
            return self._neutral_text(value, used)
        return [type(value).__name__, str(value)]

    def _neutral_text(self, text: str, used: list[str]) -> list[str]:
        if "\0" in text or not text:
            return ["text", text]
        found = self.files[text].found if text in self.files else self._find(text)
        if found:
            if text not in self.files:
                try:
                    self.files[text] = read_side_file(text, found)
                except OSError as error:
                    raise NotCacheable("side_file", str(error)) from error
            used.append(text)
            # A bare word may be a file's name by chance: then the word itself still counts.
            kept = os.path.splitext(text)[1] if os.path.isabs(text) else text
            return ["file", self.files[text].sha256, kept]
        if os.path.isabs(text) and text.strip("/"):
            raise NotCacheable("side_file", f"a custom call names {text}, which is not there")
        self._refuse_mentions(text.encode("utf-8", "surrogatepass"))
        return ["text", text]


class _Pairs:
    """A JSON object with its order, and with the keys that stand twice."""

    def __init__(self, pairs: "list[tuple[str, Any]]") -> None:
        self.pairs = pairs


def _read_json(config: bytes) -> "Any":  # noqa: ANN401 - JSON
    """Return the JSON that a configuration is, plain or in base64; None if it is something else.

    Only objects and arrays count: a bare word is text.
    """
    for text in (config, _from_base64(config)):
        if text is None or text.lstrip()[:1] not in (b"{", b"["):
            continue
        try:
            return json.loads(text, object_pairs_hook=_Pairs, parse_float=_Literal, parse_constant=_Literal)
        except (ValueError, RecursionError):
            continue
    return None


class _Literal(str):
    """A number as it was written: 1.0 and 1.00 stay apart."""

    __slots__ = ()


def _from_base64(config: bytes) -> "bytes | None":
    try:
        return base64.b64decode(config, validate=True)
    except (binascii.Error, ValueError):
        return None
