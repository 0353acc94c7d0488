"""`neuron-store bugreport`: what is in it, and that no secret and no name is, wherever they were planted."""

import gzip
import json
import os
import socket
import string
import tarfile
import time
import zipfile

import pytest
from doctors import patched
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_store.cli.redaction import Redactor
from neuron_store.shim.log import write_log
from neuron_store.store.events import Event, append_event

COMPILE = ("compile", "--target=trn1", "--output=o.neff")
MEMBERS = [
    "README.txt",
    "doctor.json",
    "settings.json",
    "config.toml",
    "environment.json",
    "counters.json",
    "events.jsonl",
    "shim.log",
]


def report(host, *arguments, name="report.tar.gz", **extra):
    """Make a report; return name -> text of what is in it."""
    path = host.base / name
    done = host.cli("bugreport", "-o", path, "--offline", *arguments, **extra)
    assert "Traceback" not in done.stderr
    return unpack(path), done.stdout


def unpack(path):
    found = {}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as bundle:
            for member in bundle.namelist():
                found[member] = bundle.read(member).decode()
    else:
        with tarfile.open(path) as bundle:
            for member in bundle:
                assert (member.uname, member.gname, member.uid) == ("", "", 0)
                found[member.name] = bundle.extractfile(member).read().decode()
    assert all(member.startswith("neuron-store-report/") for member in found)
    return {member.partition("/")[2]: text for member, text in found.items()}


@pytest.mark.parametrize("name", ["report.tar.gz", "report.tgz", "report.zip"])
def test_a_report_lists_what_is_in_it(host, name):
    host.cc(*COMPILE, host.model())
    members, said = report(host, name=name)
    assert list(members) == MEMBERS
    for member in MEMBERS:
        assert f"  {member} " in said
    assert "nothing was sent" in said.replace("\n", " ")
    assert json.loads(members["counters.json"])["miss_stored"] == 1
    (event,) = map(json.loads, members["events.jsonl"].splitlines())
    assert event["outcome"] == "miss_stored"
    assert event["module"] == "model.hlo_module.pb"
    settings = json.loads(members["settings.json"])["settings"]
    assert settings["dir"]["source"] == "NEURON_STORE_DIR"
    assert settings["max_age"] == {"value": 0.0, "source": "default"}
    ids = {finding["id"] for finding in json.loads(members["doctor.json"])["findings"]}
    assert {"path.shim-first", "compiler.found", "store.writable"} <= ids


def test_a_report_keeps_what_helps(host):
    """Versions look like addresses, and keys like secrets."""
    host.cc(*COMPILE, host.model(), STANDIN_VERSION="2.14.227.0")
    members, _ = report(host, STANDIN_VERSION="2.14.227.0")
    found = {f["id"]: f for f in json.loads(members["doctor.json"])["findings"]}
    assert found["compiler.found"]["facts"]["version"] == "2.14.227.0"
    (event,) = map(json.loads, members["events.jsonl"].splitlines())
    assert len(event["key"]) == 32
    assert json.loads(members["environment.json"])["NEURON_STORE_REMOTES"] == "none"


def test_the_log_is_its_end_and_goes_on_from_the_one_before(host):
    host.log_file.parent.mkdir(parents=True)
    host.log_file.with_name("shim.log.1").write_text("".join(f"old {number}\n" for number in range(10)))
    host.log_file.write_text("".join(f"new {number}\n" for number in range(3)))
    assert report(host, "--lines", "5")[0]["shim.log"] == "old 8\nold 9\nnew 0\nnew 1\nnew 2\n"
    (host.base / "report.tar.gz").unlink()
    assert report(host, "--lines", "2")[0]["shim.log"] == "new 1\nnew 2\n"


def test_a_file_that_exists_is_left_alone(host):
    path = host.base / "report.tar.gz"
    path.write_text("mine")
    done = host.cli("bugreport", "--offline", "-o", path, check=False)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert path.read_text() == "mine"


def test_another_kind_of_file_is_refused(host):
    done = host.cli("bugreport", "--offline", "-o", "report.rar", check=False)
    assert done.returncode == 2
    assert ".tar.gz or .tgz or .zip" in done.stderr


def test_a_folder_that_is_not_there_is_said(host):
    done = host.cli("bugreport", "--offline", "-o", "/nowhere/report.zip", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "/nowhere/report.zip" in done.stderr


def test_without_a_name_it_is_in_the_current_folder(host):
    host.cli("bugreport", "--offline")
    (path,) = host.work.iterdir()
    assert path.name.startswith("neuron-store-report-")
    assert list(unpack(path)) == MEMBERS


def test_what_cannot_be_read_says_so_and_the_rest_is_there(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    os.mkfifo(config)
    host.log_file.parent.mkdir(parents=True)
    host.log_file.mkdir()
    members, _ = report(host)
    assert "could not be made" in members["config.toml"]
    assert "could not be made" in members["shim.log"]
    assert json.loads(members["settings.json"])["fault"]
    assert "settings.invalid" in members["doctor.json"]


def test_a_broken_settings_file_is_in_it_as_it_stands(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('max_size = "a lot"\nread_only = maybe\n')
    assert report(host)[0]["config.toml"] == 'max_size = "a lot"\nread_only = maybe\n'


def test_what_hangs_does_not_hold_the_report_up(host):
    host.store.mkdir()
    patch = "import os, threading\nos.statvfs = lambda _: threading.Event().wait()"
    members, _ = report(host, "--timeout", "4", **patched(host, patch))
    assert "doctor.no-answer" in members["doctor.json"]


def test_the_settings_file_is_in_it_without_comments_line_by_line(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('# mine\nmax_size = "1G" # is it\nlog_file = "/tmp/a#b"\nbroken = "# x\n')
    assert report(host)[0]["config.toml"] == '\nmax_size = "1G"\nlog_file = "/tmp/a#b"\nbroken = "\n'


# -- secrets -------------------------------------------------------------------------------------------------------

LETTERS = string.ascii_letters + string.digits


def made_up(number, length=28):
    """A secret that is nowhere else, the same in each run."""
    return "".join(
        LETTERS[(number * 31 + place * place * 7 + place * number) % len(LETTERS)] for place in range(length)
    )


@pytest.fixture
def planted(host):
    """A host with secrets and names in every place that a report reads; `secrets` is all that must not be seen."""
    secrets = []

    def secret(shape="{}"):
        value = made_up(len(secrets) + 1)
        secrets.append(value)
        return shape.format(value)

    host.env |= {
        "USER": "melissa",
        "HOSTNAME": "trn-box-17.lab.corp.example",
        "HF_TOKEN": secret("hf_{}"),
        "HF_HOME": str(host.home / "hf"),
        "HF_ENDPOINT": secret("https://melissa:{}@hub-mirror.corp.example"),
        "HTTPS_PROXY": secret("http://proxyuser:{}@proxy-3.corp.example:3128"),
        "AWS_SECRET_ACCESS_KEY": secret(),
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "MY_DB_PASSWORD": secret(),
        "NEURON_STORE_KEY_SALT": secret(),
        "NEURON_COMPILE_CACHE_URL": secret("s3://bucket/cache?X-Amz-Signature={}&x=1"),
        "NEURON_CC_FLAGS": secret("--submit-token {} -O1"),
        "NEURON_PRIVATE_API_KEY": secret(),
        "XLA_FLAGS": secret("--xla_dump_to=s3://user:{}@bucket/"),
        "UNRELATED": secret(),
    }
    (host.home / "hf").mkdir()
    saved, other = secret(), secret()
    (host.home / "hf/token").write_text(saved + "\n")
    (host.home / "hf/stored_tokens").write_text(f"[work]\nhf_token = {other}\n")
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        secret('remotes = ["hf://alice/cache", "https://melissa:{}@hub.example/x"]\n')
        + secret('hf_token = "{}"\n')
        + secret("# my token is {}, it's \"for tests\n")
        + secret("upload = true  # {}\n")
        + 'log_file = "' + str(host.log_file) + '"\n'
        + "# mail melissa@corp.example or bert@corp.example\n"
    )  # fmt: skip
    for line in (
        f"git answered {saved} and {other}",
        secret("GET https://hub/x?token={}&a=b answered 403"),
        secret("Authorization: Bearer {}"),
        secret("{{'authorization': 'Basic {}'}}"),
        secret('{{"access_token": "{}", "expires": 3600}}'),
        secret("aws_secret_access_key = {}"),
        secret("export GITHUB_TOKEN='{}'"),
        secret("hf_{} was refused"),
        secret("Cookie: session={}; other=1"),
        secret("called with --password {}"),
        secret("https://bucket.s3.amazonaws.com/k?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260101&X-Amz-Signature={}"),
        secret("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----"),
        secret("the salt: {}"),
        f"{os.environ.get('HOME')}/x and {host.home}/models/llama of melissa on trn-box-17",
        f"/home/bert/model and /home/bert/other on {socket.gethostname()} and trn-box-17.lab.corp.example",
        "could not reach 10.1.2.3 nor 10.1.2.3:443 nor 192.168.7.9 from ip-10-1-2-3.ec2.internal",
        "melissa@corp.example wrote to bert@corp.example",
    ):
        write_log(str(host.log_file), line)
    append_event(
        host.layout,
        Event(
            time.time(),
            "error_internal",
            {
                "module": secret("hf_{}.hlo_module.pb"),
                "detail": secret("OSError('https://u:{}@h/') in /home/bert/x"),
                "run": "melissa-17",
            },
        ),
    )
    events = host.store / "events"
    (events / "2026-01-01-1000-trn-box-18.lab.corp.example").write_bytes(b"")
    write_log(str(host.log_file), "shared with trn-box-18")
    host.cc(*COMPILE, host.model(secret("hf_{}/model.pb")), check=False)
    host.secrets = secrets
    return host


PRIVATE = (
    "melissa",
    "bert",
    "trn-box",
    "hub-mirror",
    "proxy-3",
    "proxyuser",
    "10.1.2.3",
    "192.168.7.9",
    "corp.example",
)


@pytest.mark.parametrize("name", ["report.tar.gz", "report.zip"])
def test_no_secret_and_no_name_is_in_a_report_wherever_it_was_planted(planted, name):
    members, said = report(planted, name=name)
    assert len(planted.secrets) > 25
    path = planted.base / name
    raw = gzip.decompress(path.read_bytes()) if name.endswith("gz") else b""
    everything = "\0".join(members.values()) + said.replace(str(planted.base), "") + raw.decode()
    assert [secret for secret in planted.secrets if secret in everything] == []
    for private in (*PRIVATE, "AKIAIOSFODNN7EXAMPLE", str(planted.home), socket.gethostname()):
        assert private.lower() not in everything.lower(), private
    log = members["shim.log"]
    assert "~/models/llama of USER on HOST-" in log
    assert "EMAIL wrote to EMAIL" in log
    assert len(members["events.jsonl"].splitlines()) == 2
    assert "answered 403" in log
    assert "&a=b" in log
    assert '"UNRELATED"' not in members["environment.json"]


def test_the_same_name_is_the_same_word_everywhere(planted):
    members, _ = report(planted)
    log = members["shim.log"].splitlines()
    homes = next(line for line in log if "/home/" in line)
    of_bert = homes.split("/home/")[1].split("/")[0]
    assert of_bert.startswith("USER-")
    assert homes.count(f"/home/{of_bert}/") == 2
    assert f"/home/{of_bert}/x" in members["events.jsonl"]
    box = next(line.rpartition(" on ")[2] for line in log if "models/llama" in line)
    assert homes.endswith(f" and {box}")
    reach = next(line for line in log if "could not reach" in line)
    assert reach.count("ADDRESS-1") == 2
    assert reach.count("ADDRESS-2") == 1
    shared = next(line for line in log if "shared with" in line).split()[-1]
    assert shared.startswith("HOST-")
    assert shared != box


def test_a_report_asks_nobody_offline_and_only_configured_remotes_else(host, hub):
    host.use_remotes("hf://alice/cache", hub=hub)
    host.cli("bugreport", "--offline", "-o", host.base / "a.zip")
    assert not hub.requests
    host.cli("bugreport", "-o", host.base / "b.zip")
    assert hub.requests
    # What it asks is what doctor asks: nothing is sent, and nothing is written.
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert not hub.commits("alice/cache")[1:]
    assert "remotes.usable" in unpack(host.base / "b.zip")["doctor.json"]


# -- the redaction itself --------------------------------------------------------------------------------------------

ENVIRON = {"HOME": "/data/people/melissa", "USER": "melissa", "HOSTNAME": "box-1.example"}
KEPT = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(deadline=None)
@given(before=KEPT, after=KEPT, value=st.text(LETTERS, min_size=12, max_size=40))
@pytest.mark.parametrize("shape", ["hf_{}", "https://me:{}@h/x", 'api_key="{}"', "PASSWORD={}", "Bearer {}"])
def test_a_secret_is_found_in_whatever_stands_around_it(shape, before, after, value):
    text = f"{before} {shape.format(value)} {after}"
    redacted = Redactor(ENVIRON).text(text)
    assert shape.format(value) not in redacted
    assert value not in redacted or value in before + after


@settings(deadline=None)
@given(KEPT)
def test_what_was_redacted_stays_as_it_is(text):
    redactor = Redactor(ENVIRON)
    once = redactor.text(text)
    assert redactor.text(once) == once


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/data/people/melissa/x", "~/x"),
        ("/data/people/melissandre/x", "/data/people/melissandre/x"),
        ("/data/people/melissa", "~"),
        ("org melissa/cache", "org USER/cache"),
        ("BOX-1 and box-1.example:22", "HOST-2 and HOST-2:22"),
        ("box-11", "box-11"),
        ("neuronx-cc 2.14.227.0+2d4f85be", "neuronx-cc 2.14.227.0+2d4f85be"),
        ("libneuronxla 2.2.1.0 (10.2.0)", "libneuronxla 2.2.1.0 (10.2.0)"),
        ("http://8.8.8.8/x and 8.8.4.4:53", "http://ADDRESS-1/x and ADDRESS-2:53"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("key 0123456789abcdef0123456789abcdef", "key 0123456789abcdef0123456789abcdef"),
        ("token: none", "token: none"),
        ("HF_TOKEN holds a token", "HF_TOKEN holds a token"),
        ("--hub-token abc -O1", "--hub-token <token> -O1"),
        ("--secret-free -O1", "--secret-free -O1"),
        ('{"a_token": "abcdef", "b": 1}', '{"a_token": "<token>", "b": 1}'),
        ("TOKENIZERS_PARALLELISM=false", "TOKENIZERS_PARALLELISM=false"),
    ],
)
def test_names_are_replaced_and_what_helps_is_kept(text, redacted):
    assert Redactor(ENVIRON).text(text) == redacted
