"""What differs between two compiles, component by component, in words: "here" is the one explained, "there" the other.

Nothing is guessed: where what is recorded does not tell, a line says what is known and what is not.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from neuron_store.cli.sides import Side, Unknown
from neuron_store.hashing.hlo_difference import HloDifference, describe_difference
from neuron_store.hashing.hlo_fingerprint import CANONICAL, RAW

_DEBUG_INFO = " with debug info"
_SALT = "salt "
_OPTION_DIGEST = 32  # hex digits: an option's file is hashed by XXH3, a model's by SHA-256
_SHOWN_FLAGS = 6


@dataclass
class Explanation:
    """What differs.

    Attributes:
        equal: names of the components that are the same.
        differences: (component, what differs in words), one for each thing that differs.
        hlo: how the HLO differs; None where it does not, or could not be compared.
    """

    equal: list[str] = field(default_factory=list)
    differences: list[tuple[str, str]] = field(default_factory=list)
    hlo: "HloDifference | None" = None


def equal_components(one: Side, other: Side) -> list[str]:
    """Return the names of the components whose digests are the same."""
    return [name for name, digest in one.digests.items() if other.digests.get(name) == digest]


def compare(one: Side, other: Side) -> Explanation:
    """Say what differs between two compiles."""
    made = Explanation(equal=equal_components(one, other))
    for name in {**one.digests, **other.digests}:
        if name in made.equal:
            continue
        if name == "hlo":
            lines = list(_hlo_lines(one, other, made))
        else:
            here, there = one.components.get(name), other.components.get(name)
            lines = list(_COMPARED.get(name, _any_lines)(here or [], there or []))
        made.differences += [(name, line) for line in lines or [_unseen(one, other)]]
    return made


def _unseen(one: Side, other: Side) -> str:
    return f"its digests differ, though what is recorded of it is the same{_versions(one, other)}"


def _any_lines(here: list[str], there: list[str]) -> Iterator[str]:
    if here != there:
        yield f"{' '.join(here) or 'nothing'} here, {' '.join(there) or 'nothing'} there"


def _compiler_lines(here: list[str], there: list[str]) -> Iterator[str]:
    if here != there:
        yield f"compiler {_compiler(here)} here, {_compiler(there)} there"


def _compiler(fields: list[str]) -> str:
    name = " ".join(fields)
    if name.startswith("neuronx-cc "):
        return name[len("neuronx-cc ") :]
    return f"of unknown version ({name})"


def _host_lines(here: list[str], there: list[str]) -> Iterator[str]:
    if here != there:
        yield f"host product {_host(here)} here, {_host(there)} there"


def _host(fields: list[str]) -> str:
    if not fields:
        return "not in the key (--target is given)"
    return fields[0] or "unknown"


# -- flags ---------------------------------------------------------------------------------------------------


def _flag_lines(here: list[str], there: list[str]) -> Iterator[str]:
    options, others = _grouped(here), _grouped(there)
    changed = False
    for name in dict.fromkeys(_name(option) for option in [*options, *others]):
        mine = Counter(option for option in options if _name(option) == name)
        theirs = Counter(option for option in others if _name(option) == name)
        left, right = list((mine - theirs).elements()), list((theirs - mine).elements())
        for one, other in zip_longest(left, right):
            changed = True
            yield _presence(one, other)
    if not changed and here != there:
        left, right = _apart(options, others)
        yield f"the order of the flags: {' '.join(left)} here, {' '.join(right)} there"


def _presence(one: "str | None", other: "str | None") -> str:
    if other is None:
        return f"{one} here, not there"
    return f"{one} here, {other} there" if one is not None else f"{other} there, not here"


def _grouped(words: list[str]) -> list[str]:
    """Return options with the bare words that follow them."""
    options: list[str] = []
    for word in words:
        if options and not word.startswith("-"):
            options[-1] += " " + word
        else:
            options.append(word)
    return options


def _name(option: str) -> str:
    return option.partition(" ")[0].partition("=")[0]


def _apart(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Return both lists without what is the same at the beginning and the end, cut where they are long."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return _cut(one), _cut(other)


def _cut(words: list[str]) -> list[str]:
    return [*words[:_SHOWN_FLAGS], "…"] if len(words) > _SHOWN_FLAGS else words


# -- environment ---------------------------------------------------------------------------------------------


def _environment_lines(here: list[str], there: list[str]) -> Iterator[str]:
    mine, theirs = _variables(here), _variables(there)
    for name in {**mine, **theirs}:
        one, other = mine.get(name), theirs.get(name)
        if one == other:
            continue
        if name == _SALT:
            yield f"key_salt {_salt(one)} here, {_salt(other)} there"
        elif other is None:
            yield f"{name}={one} here, not set there"
        elif one is None:
            yield f"{name}={other} there, not set here"
        else:
            yield f"{name}={one} here, {name}={other} there"


def _variables(fields: list[str]) -> dict[str, str]:
    """Return name -> value; the salt has no `=` before its first space, and goes by its own name."""
    found = {}
    for text in fields:
        name, _, value = text.partition("=")
        if text.startswith(_SALT):
            name, value = _SALT, text[len(_SALT) :]
        found[name] = value
    return found


def _salt(value: "str | None") -> str:
    return "not set" if value is None else f"{value!r}"


# -- files ---------------------------------------------------------------------------------------------------


def _file_lines(here: list[str], there: list[str]) -> Iterator[str]:
    mine, theirs = _files(here), _files(there)
    changed = False
    for name in {**mine, **theirs}:
        left, right = mine.get(name, []), theirs.get(name, [])
        if Counter(left) == Counter(right):
            continue
        changed = True
        yield _file_change(name, len(left), len(right))
    if not changed and here != there:
        yield "the order of the files that options name, or their places in the options"


def _files(fields: list[str]) -> dict[str, list[str]]:
    """Return what a file is called -> digests of all that are called so."""
    found: dict[str, list[str]] = {}
    for text in fields:
        name, _, digest = text.rpartition(" ")
        of_option = len(digest) == _OPTION_DIGEST
        option = name.partition("@")[0] or "a bare word"  # what follows is the path's place in the option's text
        title = f"the file of {option}" if of_option else f"the model's file {name}"
        found.setdefault(title, []).append(digest)
    return found


def _file_change(title: str, here: int, there: int) -> str:
    if not there:
        return f"{title} is here, not there"
    if not here:
        return f"{title} is there, not here"
    return f"{title} changed" if here == there else f"{title}: {here} here, {there} there"


def _kernel_lines(here: dict[str, str], there: dict[str, str]) -> Iterator[str]:
    """Compare kernels by content; those whose content differs by file name, for their folders are often random."""
    mine = Counter(here.values())
    theirs = Counter(there.values())
    left = _names_of(here, mine - theirs)
    right = _names_of(there, theirs - mine)
    for name in {**left, **right}:
        yield _file_change(f"NKI kernel {name}", left[name], right[name])


def _names_of(kernels: dict[str, str], digests: "Counter[str]") -> "Counter[str]":
    """Return the file names of as many kernels of each digest as are asked for."""
    wanted = Counter(digests)
    names: Counter[str] = Counter()
    for path, digest in sorted(kernels.items()):
        if wanted[digest] > 0:
            wanted[digest] -= 1
            names[os.path.basename(path) or path] += 1
    return names


_COMPARED = {
    "compiler": _compiler_lines,
    "flags": _flag_lines,
    "environment": _environment_lines,
    "host": _host_lines,
    "side_inputs": _file_lines,
}


# -- HLO -----------------------------------------------------------------------------------------------------


def _hlo_lines(one: Side, other: Side, made: Explanation) -> Iterator[str]:
    forms = [(side.components.get("hlo") or [""])[0] for side in (one, other)]
    modes = [form.removesuffix(_DEBUG_INFO) for form in forms]
    debug = [form.endswith(_DEBUG_INFO) for form in forms]
    if modes[0] != modes[1]:
        yield f"the HLO is in the key {_mode(modes[0], one)} here, {_mode(modes[1], other)} there"
    if debug[0] != debug[1]:
        where = "here, not there" if debug[0] else "there, not here"
        yield f"names and debug information of the HLO are in the key {where}"
    kernels: list[str] = []
    # What a raw module reaches is not read.
    if one.kernels is not None and other.kernels is not None and modes[0] == modes[1] == CANONICAL:
        kernels = list(_kernel_lines(one.kernels, other.kernels))
    yield from kernels
    try:
        sources = one.read_hlo(), other.read_hlo()
    except Unknown as reason:
        yield f"HLO differs; in what cannot be told: {reason}{_raw_reasons((one, other), modes)}"
        return
    made.hlo = describe_difference(
        *sources, keep_debug_info=all(debug), rewrite=one.rewrite, other_rewrite=other.rewrite
    )
    if not made.hlo.equal:
        yield from made.hlo.lines()
    elif forms[0] != forms[1]:
        yield "HLO is equal otherwise"
    elif not kernels:
        yield f"HLO compares equal, and yet its recorded fingerprints differ{_versions(one, other)}"


def _mode(mode: str, side: Side) -> str:
    if mode == RAW:
        return f"by its raw bytes ({side.reason or 'the reason is not recorded'})"
    return "in its canonical form" if mode else "in an unknown form"


def _raw_reasons(sides: Iterable[Side], modes: list[str]) -> str:
    """Say why HLO is raw on both sides, which `_mode` has not said then."""
    if modes != [RAW, RAW]:
        return ""
    reasons = dict.fromkeys(side.reason for side in sides if side.reason)
    return f"; both are in the key by their raw bytes ({', '.join(reasons) or 'the reason is not recorded'})"


def _versions(one: Side, other: Side) -> str:
    return "" if one.version == other.version else f" (neuron-store {one.version} here, {other.version} there)"
