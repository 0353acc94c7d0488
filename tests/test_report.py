"""The report is one page that needs nothing else, tells what the store tells, and can be read anywhere."""

import functools
import html.parser
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time

import pytest
from event_making import DAY

from neuron_store.cli.reporting.facts import REASONS
from neuron_store.store.events import Event, append_event, encode_event

COMPILE = ["compile", "--target=trn1"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>$x^2$&amp;\x1b[31m'\"{{ 7*7 }}.pb"


@pytest.fixture
def busy(host):
    """A host with results, hits, misses of several reasons, models, and a log of some days."""
    model = host.model("llama.hlo_module.pb")
    for options in ((), ("-O1",), ("-O1",)):
        host.cc(*COMPILE, model, *options, "--output=o.neff", NEURON_STORE_MODEL="org/llama")
    host.cc(*COMPILE, host.model("other.pb", b"\x0a\x04main other" * 50), "--output=o.neff")
    host.cc(*COMPILE, model, "--output=p.neff", check=False, STANDIN_EXIT="70", NEURON_STORE_KEY_SALT="x")
    host.cc("--version")
    for ago in range(1, 6):
        fields = {
            "seconds": str(100 * ago),
            "compiler": "2.21",
            "asked": f"miss/{ago}0/hf://org/cache",
            "key": "f" * 32,
        }
        append_event(host.layout, Event(time.time() - ago * DAY, "hit_direct", fields))
    return host


def page_of(ns, host, *arguments):
    ns("report", "-o", "page.html", *arguments)
    return (host.work / "page.html").read_text()


class Reader(html.parser.HTMLParser):
    """Collects a page's texts, elements and whatever would load something."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.loads, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.loads += [(tag, value) for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_the_page_tells_what_the_store_tells(busy, ns):
    text = Reader(page_of(ns, busy)).text
    for said in (
        "25 min of compile time saved",
        "llama.hlo_module.pb",
        "org/llama",
        "hf://org/cache",
        "the compiler failed; nothing stored",
        REASONS["flags"],
        "--optlevel=1 here, not there",
        os.uname().nodename,
    ):
        assert said in text, said
    for heading in (
        "The slowest subgraphs",
        "Models and what they need",
        "Remotes",
        "By day",
        "By compiler",
        "By host",
    ):
        assert heading in text, heading


def test_every_reason_of_a_miss_is_told_as_it_is(host, ns):
    model = host.model()
    host.cc(*COMPILE, model, "--output=o.neff")
    host.cc(*COMPILE, model, "--output=o.neff", "-O1")
    host.cc(*COMPILE, model, "--output=o.neff", NEURON_STORE_KEY_SALT="other")
    ns("clear", "--yes")
    host.cc(*COMPILE, model, "--output=o.neff")
    text = Reader(page_of(ns, host)).text
    assert REASONS["again"] in text
    assert REASONS["unrecorded"] in text


def test_the_page_loads_nothing_and_runs_nothing(busy, ns):
    page = page_of(ns, busy)
    reader = Reader(page)
    assert "script" not in reader.elements
    assert [load for load in reader.loads if not (load[1] or "").startswith("#")] == []
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_names_from_outside_stay_text(host, ns):
    fields = {"module": HOSTILE, "model": HOSTILE, "seconds": "5", "compiler": HOSTILE, "detail": HOSTILE}
    fields["asked"] = f"hit/5/hf://{HOSTILE}"
    for outcome in ("hit_direct", "miss_failed"):
        append_event(host.layout, Event(time.time(), outcome, fields))
    page = page_of(ns, host)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "{{ 7*7 }}" in page
    ns("report", "--png", "-o", "page.png")


def test_an_odd_log_gives_a_page_and_a_picture_of_the_rest_of_it(busy, ns):
    events = busy.store / "events"
    (newest, *_) = sorted(events.iterdir(), reverse=True)
    (events / "9999-99-99-0-h1").write_bytes(newest.read_bytes())
    with newest.open("ab") as file:
        file.write(encode_event(Event(1e18, "miss_failed", {"seconds": "5"})))
    assert "9999" not in Reader(page_of(ns, busy)).text
    ns("report", "--png", "-o", "page.png")
    assert ns("watch", "--once").stderr == ""


def test_names_in_any_script_are_text_in_the_page_and_nothing_is_said_of_fonts(host, ns):
    append_event(host.layout, Event(time.time(), "hit_direct", {"model": "org/hö日本", "seconds": "5"}))
    done = ns("report", "-o", "page.html")
    assert done.stderr == ""
    svg = (host.work / "page.html").read_text().partition("<svg")[2]
    assert re.search(r"<text[^>]*> ?org/hö日本</text>", svg)
    assert ns("report", "--png").stderr == ""


def test_an_empty_store_gives_a_page_that_says_how_to_begin(host, ns):
    text = Reader(page_of(ns, host)).text
    assert "Nothing has been compiled through this store yet" in text
    ns("report", "--png")
    assert (host.work / "report.png").read_bytes().startswith(b"\x89PNG")


def test_only_what_happened_since_is_told(busy, ns):
    text = Reader(page_of(ns, busy, "--since", "36h")).text
    assert "1 min 40 s of compile time saved" in text
    assert "since 20" in text


@pytest.mark.parametrize("arguments", [["--png"], ["--png", "-o", "x.png"], ["-o", "x.png"]])
def test_a_picture_instead(busy, ns, arguments):
    done = ns("report", *arguments)
    name = "x.png" if "-o" in arguments else "report.png"
    assert done.stdout.startswith(f"{name}: ")
    data = (busy.work / name).read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > 1000
    assert height > 700


def test_to_stdout(busy, ns):
    done = ns("report", "-o", "-")
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.rstrip().endswith("</html>")


def test_a_report_can_be_made_again_over_the_old_one(busy, ns):
    (busy.work / "page.html").write_text("old" * 100_000)
    assert page_of(ns, busy).rstrip().endswith("</html>")
    assert [name for name in os.listdir(busy.work) if name.startswith("tmp")] == []
    assert (busy.work / "page.html").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def test_a_page_that_is_a_link_stays_one_and_its_target_is_written(busy, ns):
    (busy.work / "kept").mkdir()
    (busy.work / "page.html").symlink_to("kept/there.html")
    assert page_of(ns, busy).rstrip().endswith("</html>")
    assert (busy.work / "page.html").is_symlink()
    assert os.listdir(busy.work / "kept") == ["there.html"]


def test_a_page_keeps_the_rights_of_the_one_that_it_replaces(busy, ns):
    (busy.work / "page.html").write_text("old")
    (busy.work / "page.html").chmod(0o600)
    page_of(ns, busy)
    assert (busy.work / "page.html").stat().st_mode & 0o777 == 0o600


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize("output", ["none/page.html", "."])
def test_a_place_that_cannot_be_written_is_said_before_the_store_is_read(host, ns, output):
    done = ns("report", "-o", output, code=2)
    assert re.search(rf"--output {re.escape(output)}: .*; give a file in a folder that exists", done.stderr)


def test_without_its_libraries_it_says_what_to_install(host):
    block = host.base / "block"
    block.mkdir()
    (block / "matplotlib.py").write_text("raise ImportError('No module named matplotlib')")
    done = host.cli("report", check=False, PYTHONPATH=block)
    assert done.returncode == 2
    assert "pip install 'neuron-store[report]'" in done.stderr
    assert "Traceback" not in done.stderr


# -- in a browser ------------------------------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
MEASURE = """<!doctype html><iframe src="page.html" width="{width}" height="600"></iframe><pre id="told"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("h1, h2, p, figure, .card, .miss")];
  const cut = wide.filter(e => e.getBoundingClientRect().right > {width} + 1).map(e => e.textContent.slice(0, 30));
  const style = getComputedStyle(page.body);
  const svg = page.querySelector("figure svg text");
  document.getElementById("told").textContent = JSON.stringify({{
    scroll: root.scrollWidth, cut, ink: style.color, paper: style.backgroundColor,
    text: svg ? svg.getBoundingClientRect().height : 0, figures: page.querySelectorAll("figure svg").length}});
}});
</script>"""


@pytest.fixture
def server(busy):
    """The work folder on 127.0.0.1, and what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=busy.work)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def measured(busy, server, width, *options):
    (busy.work / "measure.html").write_text(MEASURE.format(width=width))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={busy.base / 'chromium'}",
        "--virtual-time-budget=5000",
        *options,
        "--dump-dom",
        f"{server}/measure.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(re.search(r'<pre id="told">(.*?)</pre>', done.stdout)[1].replace("&gt;", ">"))


def brightness(colour):
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3])


@needs_chromium
@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_is_cut_off_at_any_width(busy, ns, server, width):
    page_of(ns, busy)
    told = measured(busy, server[0], width)
    assert told["cut"] == []
    assert told["scroll"] <= width
    assert told["figures"] == 6
    assert told["text"] >= 9  # pixels: text of a chart can be read
    assert set(server[1]) <= {"/measure.html", "/page.html", "/favicon.ico"}


@needs_chromium
def test_it_is_dark_where_the_reader_wants_it_dark(busy, ns, server):
    page_of(ns, busy)
    light = measured(busy, server[0], 800)
    dark = measured(busy, server[0], 800, "--blink-settings=preferredColorScheme=0")
    for bright, dull in ((light["paper"], light["ink"]), (dark["ink"], dark["paper"])):
        assert brightness(bright) > 600
        assert brightness(dull) < 200
