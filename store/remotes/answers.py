"""What the remotes answered to one look, as an event tells it.

Grammar: <answer>/<milliseconds>/<url>, or <answer>/<milliseconds>*<count>/<url> where several are summed up, separated
by commas. A comma in a URL is written %2C. The milliseconds are those until it was clear whether the remote has what is
asked for, without the transfer of it; they have two digits that count, so that many are summed up as few.
"""

HIT, MISS, ERROR, SKIPPED = "hit", "miss", "error", "skipped"
ANSWERS = (HIT, MISS, ERROR, SKIPPED)  # skipped: not asked, as it failed a short while ago

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def encode_answer(answer: str, seconds: float, url: str, count: int = 1) -> str:
    """Return the text of one answer, or of `count` that were alike."""
    times = "" if count == 1 else f"*{count}"
    return f"{answer}/{_milliseconds(seconds)}{times}/{url.replace(',', '%2C')}"


def _milliseconds(seconds: float) -> str:
    return f"{float(f'{max(0.0, seconds) * 1e3:.2g}'):g}"


def decode_answers(text: str) -> "Iterator[tuple[str, float, str, int]]":
    """Yield each answer: what it was, seconds, the URL and how many were alike. What is not understood is left out."""
    for word in text.split(","):
        answer, _, rest = word.partition("/")
        spent, _, url = rest.partition("/")
        milliseconds, _, times = spent.partition("*")
        try:
            yield answer, float(milliseconds) / 1e3, url, int(times or 1)
        except ValueError:
            continue
