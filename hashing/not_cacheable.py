"""The answer "this invocation cannot be cached", with the reason that its counter is named after."""


class NotCacheable(Exception):  # noqa: N818 - an answer, not an error
    """The real compiler must run uncached.

    `reason` is the name of the counter without its `pass_` prefix; `detail` says to a reader of the log what
    was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
