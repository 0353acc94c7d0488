"""Real shells at a terminal of their own: what a line becomes when Tab is pressed at its end."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time

LONGEST = 60.0  # seconds until a shell must have answered, on a busy machine
KEY = "\x18"  # Ctrl-X: the shell writes its line to a file

# How each shell starts without anyone's own settings, and how it writes its line.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """bind -x '"\\C-x": printf %s "$READLINE_LINE" >"$TYPED.new"; mv "$TYPED.new" "$TYPED"'""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        (
            'autoload -Uz compinit; compinit -u -D; dump() { print -rn -- "$BUFFER" >$TYPED.new; mv $TYPED.new $TYPED }; '
            "zle -N dump; bindkey '^X' dump"
        ),
    ),
}


class Shell:
    """An interactive shell, ended with its `with` block."""

    def __init__(self, kind, env, folder):
        self.typed = folder / "typed"
        words, write_line = SHELLS[kind]
        self.terminal, other = pty.openpty()
        self.process = subprocess.Popen(
            words,
            stdin=other,
            stdout=other,
            stderr=other,
            env={**env, "TYPED": str(self.typed), "TERM": "xterm", "PS1": "$ "},
            cwd=folder,
            start_new_session=True,
        )
        os.close(other)
        self.seen = b""
        self.run(write_line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.terminal)

    def run(self, line):
        """Run a line, and wait until it is done."""
        done = self.typed.with_name("done")
        os.write(self.terminal, f"{line}; : > {done}\n".encode())
        self._until(done)
        done.unlink()

    def complete(self, line):
        """Type a line and Tab; return what is there then, and empty the line."""
        os.write(self.terminal, f"{line}\t{KEY}".encode())
        self._until(self.typed)
        text = self.typed.read_text()
        self.typed.unlink()
        os.write(self.terminal, b"\x15")  # Ctrl-U
        return text

    def _until(self, path):
        end = time.monotonic() + LONGEST
        while not path.exists():
            assert time.monotonic() < end, self.seen.decode(errors="replace")
            if select.select([self.terminal], [], [], 0.02)[0]:
                self.seen += os.read(self.terminal, 65536)
