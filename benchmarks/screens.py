"""Pictures of what commands show, for the documentation: `python -m neuron_store.benchmarks.screens DIRECTORY`.

Each command is run on a terminal of 100 columns, on a made-up host (demo_host.py) with a made-up store (demo_store.py);
what it prints becomes an SVG that needs no font of a server's. The report's page is photographed by a Chromium, if one
is on PATH.
"""

import argparse
import errno
import fcntl
import io
import os
import pty
import pwd
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from neuron_store.benchmarks.demo_host import NAME, PREFIX, USER
from neuron_store.benchmarks.demo_host import NOW as NOW_VARIABLE
from neuron_store.benchmarks.demo_store import REMOTE, fill_store, in_flight, queue_some
from neuron_store.shim.launcher import write_launcher
from neuron_store.store.errors import BenchmarkError
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote

COLUMNS = 100
# A Friday; what is shown happened before it.
NOW = datetime(2026, 1, 30, 14, 2, 25, tzinfo=timezone.utc).timestamp()
_COMPILER = "2.21.33363.0+82129205"
_PACKAGES = {"libneuronxla": "2.2.12677.0", "torch-neuronx": "2.8.0.2.10.16998"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PAGE = (1000, 1500)  # pixels of the report's page that are shown
_SHADES = {"report-page": "1", "report-page-dark": "0"}  # as Chromium's preferredColorScheme counts them
_TEMPORARY = "/tmp/"
_PATIENCE = 120  # seconds for one program

_THEME = TerminalTheme(
    (22, 27, 34),
    (214, 220, 226),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (177, 186, 196),
    ],
)
# rich's own form, without the font that it fetches from a server.
_FORM = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, "DejaVu Sans", Arial, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


@dataclass
class Stage:
    """Where commands run: temporary folders, and what each is called in the pictures.

    Attributes:
        names: path -> what is shown in its place, of the same length, so that nothing is laid out otherwise.
        env: the environment of the commands.
    """

    names: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def shown(self, text: str) -> str:
        """Return a command's output as the host's own. Raises BenchmarkError where it tells of this machine."""
        for path, name in sorted(self.names.items(), key=lambda pair: -len(pair[0])):  # one may begin as another
            text = text.replace(path, name)
        demo = " ".join((*self.names.values(), NAME, USER))  # which this machine may have, too
        names = [name for name in _names_of_this_machine() if name not in demo]
        words = set(re.findall(r"[\w-]+", text))
        told = [name for name in names if (name in text if name.startswith("/") else name in words)]
        if told:
            raise BenchmarkError(f"a picture would tell of the machine that drew it: {', '.join(told)}")
        return text


def _names_of_this_machine() -> list[str]:
    """Return what must not be in a picture: this host, its user, where we stand, where temporary files lie."""
    user = pwd.getpwuid(os.getuid()).pw_name
    here = [os.getcwd(), str(Path(__file__).parent.parent), os.path.expanduser("~"), _TEMPORARY]
    # "root" is nobody's name, and "vm" or "ip" could be a word of anything.
    return [*here, *(name for name in (os.uname().nodename, user) if len(name) > 3 and name != "root")]


@contextmanager
def open_stage(**folders: str) -> "Iterator[tuple[Stage, dict[str, str]]]":
    """Yield a stage and its folders; `folders` says what each is called in the pictures."""
    paths: dict[str, str] = {}
    stage = Stage()
    try:
        for role, name in folders.items():
            paths[role] = _folder_as_long_as(name)
            stage.names[paths[role]] = name
        stage.env = {
            "HOME": paths["home"],
            "LANG": "C.UTF-8",
            "NEURON_STORE_DIR": paths.get("store", f"{paths['home']}/.cache/neuron-store"),
            "PATH": "/usr/bin:/bin",
            "TERM": "xterm-256color",
            "TZ": "UTC",
            "USER": USER,
        }
        yield stage, paths
    finally:
        for path in paths.values():
            shutil.rmtree(path, ignore_errors=True)  # a browser may still be writing


def _folder_as_long_as(name: str) -> str:
    """Make a temporary folder whose path has as many letters as `name`, so that what is printed is laid out alike."""
    digits = len(name) - len(_TEMPORARY)
    for number in range(10 ** (digits - 1), 10**digits):
        try:
            os.mkdir(f"{_TEMPORARY}{number}", 0o755)
        except FileExistsError:
            continue
        return f"{_TEMPORARY}{number}"
    raise BenchmarkError(f"{_TEMPORARY} is full of folders of {digits} digits; remove them")


# -- commands on a terminal --------------------------------------------------------------------------------------------


def run_on_terminal(stage: Stage, *words: str) -> str:
    """Return what `neuron-store WORDS` prints on a terminal, with its colours. Raises BenchmarkError if it fails."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "neuron_store.benchmarks.demo_host", *words]
    with subprocess.Popen(
        command, env=stage.env, cwd=stage.env["HOME"], stdin=slave, stdout=slave, stderr=slave
    ) as run:
        os.close(slave)
        printed = b"".join(_pieces(master))
        os.close(master)
    text = printed.decode().replace("\r\n", "\n")
    if run.returncode:
        raise BenchmarkError(f"neuron-store {' '.join(words)} ended with {run.returncode}: {text}")
    return stage.shown(text)


def _pieces(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has the other end any more
                return
            raise
        if not piece:
            return
        yield piece


def as_svg(title: str, printed: str) -> str:
    """Return a picture of a terminal with a command and what it printed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text(f"$ {title}", style="bold"))
    console.print(Text.from_ansi(printed.rstrip("\n")))
    name = re.sub(r"\W+", "-", title)
    svg = console.export_svg(title=title, theme=_THEME, code_format=_FORM, unique_id=name)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _draw(directory: Path, name: str, stage: Stage, *words: str) -> Path:
    path = directory / f"{name}.svg"
    path.write_text(as_svg(" ".join(("neuron-store", *words)), run_on_terminal(stage, *words)), encoding="utf-8")
    return path


# -- the pictures ------------------------------------------------------------------------------------------------------


def draw_terminals(directory: Path) -> Iterator[Path]:
    """Draw stats.svg, list.svg, watch.svg and doctor.svg, and yield their paths."""
    with _cluster() as stage:
        yield _draw(directory, "stats", stage, "stats")
        yield _draw(directory, "list", stage, "list", "-n", "16")
        layout = Layout(stage.env["NEURON_STORE_DIR"])
        with in_flight(layout, NOW):
            yield _draw(directory, "watch", stage, "watch", "--once")
    with _host() as stage:
        yield _draw(directory, "doctor", stage, "doctor", "--offline")


def draw_report(directory: Path) -> Iterator[Path]:
    """Draw report.png, and where there is a browser the page in light and dark; yield their paths."""
    with _cluster() as stage:
        path = directory / "report.png"
        path.write_bytes(_smaller(_report(stage, "report.png")))
        yield path
        browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        if browser is None:
            print(f"report-page.png, report-page-dark.png: left as they are; none of {', '.join(_BROWSERS)} is on PATH")
            return
        page = Path(stage.env["HOME"], "page.html")
        page.write_text(stage.shown(_report(stage, "report.html").decode()), encoding="utf-8")
        for name, scheme in _SHADES.items():
            path = directory / f"{name}.png"
            path.write_bytes(_smaller(_photograph(browser, page, scheme)))
            yield path


def _report(stage: Stage, name: str) -> bytes:
    run_on_terminal(stage, "report", "-o", name)
    return Path(stage.env["HOME"], name).read_bytes()


def _photograph(browser: str, page: Path, scheme: str) -> bytes:
    picture = page.with_suffix(".png")
    command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start otherwise
    command += [f"--user-data-dir={page.parent}/browser", f"--blink-settings=preferredColorScheme={scheme}"]
    command += [f"--window-size={_PAGE[0]},{_PAGE[1]}", f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_PATIENCE)
    if done.returncode or not picture.exists():
        raise BenchmarkError(f"{browser} made no picture: {done.stderr.strip()[-500:]}")
    return picture.read_bytes()


def _smaller(png: bytes) -> bytes:
    """Return a PNG of at most 128 colours: a third of the bytes, and nobody sees it."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


@contextmanager
def _cluster() -> Iterator[Stage]:
    """Yield a host of several that share a store, at a moment that is always the same."""
    with open_stage(home="/home/ubuntu", store="/fsx/neuron-store") as (stage, paths):
        layout = Layout(paths["store"])
        fill_store(layout, NOW)
        remote, _ = open_remote(read_location(REMOTE), layout, stage.env, RemoteOptions())
        queue_some(layout, remote.identity, NOW)
        stage.env["NEURON_STORE_REMOTES"] = REMOTE
        stage.env[NOW_VARIABLE] = f"{NOW:.0f}"
        yield stage


@contextmanager
def _host() -> Iterator[Stage]:
    """Yield a host with a store, a compiler and the shim of its own, now: clocks are looked at, too."""
    with open_stage(home="/home/ubuntu", prefix="/opt/neuron_venv") as (stage, paths):
        prefix = paths["prefix"]
        fill_store(Layout(stage.env["NEURON_STORE_DIR"]), time.time())
        os.mkdir(f"{prefix}/bin")
        os.symlink(sys.executable, f"{prefix}/bin/python3")
        _write_compiler(prefix)
        launcher = write_launcher(Path(prefix, "libexec/neuron-store"))
        stage.env |= {
            "HF_TOKEN": "hf_demo",
            "PATH": f"{launcher.parent}:{prefix}/bin:{stage.env['PATH']}",
            "VIRTUAL_ENV": prefix,
            PREFIX: prefix,
        }
        run_on_terminal(stage, "config", "set", "remotes", REMOTE)
        yield stage


def _write_compiler(prefix: str) -> None:
    """Put a stand-in for the compiler, which only tells its version, into an environment, with packages beside it."""
    program = Path(prefix, "bin/neuronx-cc")
    program.write_text(f"#!{prefix}/bin/python3 -IS\nprint('NeuronX Compiler version {_COMPILER}')\n")
    program.chmod(0o755)
    site = Path(prefix, f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    for name, version in {**_PACKAGES, "neuronx-cc": _COMPILER}.items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "RECORD").write_text("../../../bin/neuronx-cc,,\n" if name == "neuronx-cc" else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all pictures into a directory, which must be there. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m neuron_store.benchmarks.screens", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the pictures go")
    directory = parser.parse_args(argv).directory
    for draw in (draw_terminals, draw_report):
        for path in draw(directory):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
