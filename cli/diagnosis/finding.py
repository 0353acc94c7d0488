"""What an examination finds: a stable name, how grave it is, what is the matter, and what to do about it."""

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Level(str, Enum):
    """How grave a finding is. Only a problem keeps compiles from being served, or results from being stored or shared."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Kind:
    """What all findings of one name have in common; the documentation is written from it.

    Attributes:
        meaning: what it means when this is found.
        advice: what to do about it, "" where nothing need be done.
    """

    level: Level
    meaning: str
    advice: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        id: `<area>.<name>`, the same in every version.
        what: what is the matter here, in words.
        advice: what to do, "" if nothing.
        facts: the same for programs, JSON-ready.
    """

    id: str
    level: Level
    what: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def area(self) -> str:
        """What it is about."""
        return self.id.partition(".")[0]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {**asdict(self), "area": self.area, "level": self.level.value}


class Area:
    """All kinds of findings about one thing.

    Attributes:
        name: the first part of their ids.
        kinds: second part of the id -> what it means.
    """

    def __init__(self, name: str, kinds: dict[str, Kind]) -> None:
        self.name = name
        self.kinds = kinds

    def find(self, name: str, what: str, /, *, advice: str = "", **facts: Any) -> Finding:  # noqa: ANN401 - any JSON
        """Return a finding of the kind `name`; `advice` stands in the place of the kind's own."""
        kind = self.kinds[name]
        return Finding(f"{self.name}.{name}", kind.level, what, advice or kind.advice, facts)


def ok(meaning: str) -> Kind:
    """Return the kind of what is as it should be."""
    return Kind(Level.OK, meaning)


def note(meaning: str, advice: str = "") -> Kind:
    """Return the kind of what is good to know."""
    return Kind(Level.NOTE, meaning, advice)


def warning(meaning: str, advice: str) -> Kind:
    """Return the kind of what costs hits or may do harm later."""
    return Kind(Level.WARNING, meaning, advice)


def problem(meaning: str, advice: str) -> Kind:
    """Return the kind of what keeps compiles from being served, or results from being stored or shared."""
    return Kind(Level.PROBLEM, meaning, advice)
