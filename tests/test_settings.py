"""Settings: which of several values holds, where it came from, and what cannot be one."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_store.shim.settings import SETTINGS, _read_plain, load_settings, parse_setting, read_config
from neuron_store.store.errors import ConfigurationError

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

# For each kind, two values that are no setting's default: as environment text, in TOML, and what they mean.
VALUES = {
    "path": [("/in the/environment", '"/in the/environment"', "/in the/environment"), ("/é'x", '"/é\'x"', "/é'x")],
    "integer": [("7", "7", 7), ("11", "11", 11)],
    "number": [("2.5", "2.5", 2.5), ("8", "8", 8.0)],
    "bytes": [("200G", '"200G"', 200_000_000_000), ("7", "7", 7)],
    "time": [("30d", '"30d"', 2_592_000.0), ("2.5", "2.5", 2.5)],
    "share": [("10%", '"10%"', "10%"), ("50 GB", '"50 GB"', "50 GB")],
    "list": [
        ("hf://a/b file:///x|read-only", '["hf://a/b", "file:///x|read-only"]', ("hf://a/b", "file:///x|read-only")),
        (" none\t", '"none"', ("none",)),
    ],
    "word": [("two words", '"two words"', "two words"), ("é", '"é"', "é")],
}
OF_ONE_CHOICE = {"debug_info": ("exact", '"exact"', "exact"), "xet": ("off", '"off"', "off")}
OF_FALSE_BY_DEFAULT = [("yes", "true", True), ("ON", "true", True)]
OF_TRUE_BY_DEFAULT = [("no", "false", False), ("0", "false", False)]


def values(name):
    kind, default, _ = SETTINGS[name]
    if name in OF_ONE_CHOICE:
        return [OF_ONE_CHOICE[name]] * 2
    if kind == "boolean":
        return OF_TRUE_BY_DEFAULT if default else OF_FALSE_BY_DEFAULT
    return VALUES[kind]


@pytest.fixture
def place(tmp_path):
    """An environment whose configuration file is the test's own, and that file."""
    config = tmp_path / "config.toml"
    return {"HOME": str(tmp_path / "home"), "NEURON_STORE_CONFIG": str(config)}, config


def refusal(environ):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    assert caught.value.exit_code == 2
    return str(caught.value)


# -- which value holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_the_environment_comes_before_the_file_and_the_file_before_the_default(place, name):
    environ, config = place
    variable = f"NEURON_STORE_{name.upper()}"
    (in_environment, _, meant_by_environment), (_, in_file, meant_by_file) = values(name)

    settings = load_settings(environ)
    default = getattr(settings, name)
    assert settings.sources[name] == "default"
    assert default not in {meant_by_environment, meant_by_file}

    config.write_text(f"{name} = {in_file}\n")
    settings = load_settings(environ)
    assert getattr(settings, name) == meant_by_file
    assert settings.sources[name] == str(config)

    settings = load_settings({**environ, variable: in_environment})
    assert getattr(settings, name) == meant_by_environment
    assert settings.sources[name] == variable


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_variable_is_as_if_it_were_not_set(place, name):
    environ, config = place
    variable = f"NEURON_STORE_{name.upper()}"
    by_default = load_settings(environ)
    empty = load_settings({**environ, variable: ""})
    assert getattr(empty, name) == getattr(by_default, name)
    assert empty.sources[name] == "default"
    _, (_, in_file, meant) = values(name)
    config.write_text(f"{name} = {in_file}\n")
    empty = load_settings({**environ, variable: ""})
    assert (getattr(empty, name), empty.sources[name]) == (meant, str(config))


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting[0] == "path"])
def test_an_empty_path_in_the_file_is_as_if_it_were_not_there(place, name):
    environ, config = place
    by_default = getattr(load_settings(environ), name)
    config.write_text(f'{name} = ""\n')
    settings = load_settings(environ)
    assert (getattr(settings, name), settings.sources[name]) == (by_default, "default")


def test_what_is_not_set_keeps_its_default_beside_what_is(place):
    environ, config = place
    config.write_text("recache = true\n")
    settings = load_settings({**environ, "NEURON_STORE_READ_ONLY": "1"})
    set_by = {name: source for name, source in settings.sources.items() if source != "default"}
    assert set_by == {"recache": str(config), "read_only": "NEURON_STORE_READ_ONLY"}
    assert set(settings.sources) == set(SETTINGS)


def test_a_tilde_is_the_home_folder(host):
    host.cli("config", "set", "log_file", "~/shim.log")
    config = host.home / ".config/neuron-store/config.toml"
    config.write_text(config.read_text() + 'compiler = "~/cc"\n')
    shown = host.cli("config", "--json", NEURON_STORE_DIR="~/store").stdout
    for name in ("shim.log", "cc", "store"):
        assert f'"value": "{host.home}/{name}"' in shown


# -- values that a setting cannot have -----------------------------------------------------------------------------

BAD_TEXTS = {
    "enabled": ["maybe", "2", "tru"],
    "read_only": ["-1", "none"],
    "compression_level": ["three", "3.5", "20", "-1", "9" * 5000],
    "max_log_bytes": ["1 GB", "-1"],
    "lock_timeout": ["soon", "-0.5", "nan", "1h"],
    "audit_percent": ["101", "-1", "all", "nan"],
    "debug_info": ["sometimes", "AUTO"],
}
BAD_TOML = {
    "enabled": ["1", '"true"', "[]"],
    "compression_level": ["20", "-1", "3.0", "true", '"3"', "2026-01-31"],
    "lock_timeout": ["-1", "nan", '"10"', "true"],
    "max_log_bytes": ["1.5", "{a = 1}"],
    "dir": ["5", "true", '["/store"]', r'"/a\u0000b"'],
    "compiler": ["false"],
    "key_salt": ["1", "true", '["a"]'],
    "debug_info": ['"sometimes"', "true"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in BAD_TEXTS if name in SETTINGS for text in BAD_TEXTS[name]]
)
def test_a_bad_value_in_the_environment_is_refused_by_its_variable(place, name, text):
    environ, _ = place
    message = refusal({**environ, f"NEURON_STORE_{name.upper()}": text})
    assert message.startswith(f"NEURON_STORE_{name.upper()} is ")
    assert ", which is not " in message


@pytest.mark.parametrize(
    ("name", "toml"), [(name, toml) for name in BAD_TOML if name in SETTINGS for toml in BAD_TOML[name]]
)
def test_a_bad_value_in_the_file_is_refused_by_its_file(place, name, toml):
    environ, config = place
    config.write_text(f"# a comment\n{name} = {toml}\n")
    assert refusal(environ).startswith(f"{name} in {config} is ")


@pytest.mark.parametrize(
    "content",
    [b"enabled = ", b"enabled\n", b"a = 1\na = 1\n", b"\xff\xfe", b'x = "\xe9"', b"x = " + b"9" * 5000, b"x\r= 1"],
)
def test_a_file_that_is_not_toml_is_refused_by_its_name(place, content):
    environ, config = place
    config.write_bytes(content)
    message = refusal(environ)
    assert message.startswith(str(config))
    assert message.endswith("mend it or remove it")


def test_a_folder_in_the_place_of_the_file_is_refused_by_its_name(place):
    environ, config = place
    config.mkdir()
    assert refusal(environ).startswith(f"{config} cannot be read")


def test_a_file_that_is_absent_sets_nothing(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent.toml", tmp_path / "absent/config.toml", tmp_path / "file/config.toml"):
        assert read_config(str(path)) == {}


def test_a_setting_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ConfigurationError, match=r"there is no setting 'colour'.*compiler.*enabled.*recache"):
        parse_setting("colour", "blue")


# -- the plain reader ----------------------------------------------------------------------------------------------


def pieces(*words):
    return st.sampled_from(words)


SPACE = pieces("", " ", "\t", "  ", "\u00a0", "\u2003", "\x0b", "\x0c")
NAME = st.one_of(pieces("a", "dir", "A_1", "enabled", "é", "a-b", "1", "a.b", '"a"', "'a'", "", "[a]", "[[a]]", "inf"))
STRING = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), pieces('"', "\\", "#", "'", "\t", "\x7f", "=")))
VALUE = st.one_of(
    pieces("true", "false", "True", "0", "00", "007", "1", "-1", "+1", "1_000", "1.5", "1e3", "0x1f", "inf", "nan"),
    pieces('"', '""', '"""', '""""""', '"\\n"', '"a" "b"', "'a'", "[]", "{}", "²", "٣", "2026-01-31", "12:00:00", ""),
    st.integers(min_value=0).map(str),
    STRING.map(lambda text: f'"{text}"'),
)
COMMENT = st.one_of(st.just(""), STRING.map(lambda text: "#" + text))
LINE = st.one_of(
    st.tuples(SPACE, NAME, SPACE, pieces("=", "=", "=", "==", ""), SPACE, VALUE, SPACE, COMMENT).map("".join),
    st.tuples(SPACE, COMMENT).map("".join),
    STRING,
)
ENDING = pieces("\n", "\n", "\r\n", "\r", "\x85", "\u2028", "")
STRUCTURED = st.lists(st.tuples(LINE, ENDING).map("".join), max_size=6).map("".join)
GOOD_LINE = st.one_of(
    st.tuples(pieces("dir", "compiler"), STRING.map(lambda text: f' = "{text}"')).map("".join),
    st.tuples(pieces("enabled", "n1", "_x"), pieces("=", " = ", "\t=\t"), pieces("true", "false", "0", "12")).map(
        "".join
    ),
    pieces("", "# why", "  \t", "\t# é"),
)
ALMOST_GOOD = st.lists(st.tuples(GOOD_LINE, ENDING).map("".join), max_size=6).map("".join)


@given(st.one_of(STRUCTURED, ALMOST_GOOD, st.text(), st.text("ab=\"'#\\ \t\r\n01true")))
@example("a = 1\r")
@example("a = 1\r\r\n")
@example("\ufeffa = 1")
@example('a = "x"#')
@example('a = "#"')
@example('a = """')
@example("#\x00")
@example("a = " + "9" * 19)
@example("a = 1\na = 2")
def test_where_the_plain_reader_answers_it_agrees_with_the_toml_parser(text):
    plain = _read_plain(text)
    if plain is not None:
        assert repr(plain) == repr(dict(tomllib.loads(text)))


def test_the_plain_reader_answers_for_ordinary_files():
    text = '# how we compile\n\ndir = "/efs/store of all, é"\r\n\tenabled=true\nrecache = false\n  lock_timeout = 60\n'
    assert _read_plain(text) == {"dir": "/efs/store of all, é", "enabled": True, "recache": False, "lock_timeout": 60}


def test_what_the_plain_reader_leaves_is_read_all_the_same(place):
    environ, config = place
    config.write_text("lock_timeout = 1e3 # seconds\nmax_log_bytes = 1_000\ncompiler = '/opt/cc'\nenabled = false\n")
    settings = load_settings(environ)
    assert (settings.lock_timeout, settings.max_log_bytes, settings.enabled) == (1000.0, 1000, False)
    assert settings.compiler == "/opt/cc"


# -- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_comes_back_from_its_text(place, name):
    environ, _ = place
    default = getattr(load_settings(environ), name)
    for value in (default, *(meant for _, _, meant in values(name))):
        text = " ".join(value) if isinstance(value, tuple) else str(value)
        if value == "":
            continue
        assert repr(parse_setting(name, text)) == repr(value)


@given(st.integers(0, 19), st.floats(0, allow_nan=False), st.integers(0, 2**70), st.booleans())
def test_any_value_in_range_comes_back_from_its_text(level, seconds, count, answer):
    assert parse_setting("compression_level", str(level)) == level
    assert parse_setting("lock_timeout", repr(seconds)) == seconds
    assert parse_setting("max_log_bytes", str(count)) == count
    for text in (str(answer), str(answer).lower(), str(int(answer)), f" {answer} "):
        assert parse_setting("enabled", text) is answer


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_comes_back_from_the_file_that_config_set_writes(host, name):
    for text, _, meant in values(name):
        host.cli("config", "set", name, text)
        environ = {key: host.env[key] for key in host.env.keys() - {"NEURON_STORE_DIR", "NEURON_STORE_REMOTES"}}
        settings = load_settings(environ)
        assert repr(getattr(settings, name)) == repr(meant)
        assert settings.sources[name] == f"{host.home}/.config/neuron-store/config.toml"


def test_config_set_keeps_comments_and_order(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# ours\n\nrecache = false   # for now\n# the level\ncompression_level = 3\n\n# end\n")
    host.cli("config", "set", "compression_level", "9")
    host.cli("config", "set", "recache", "on")
    assert config.read_text() == "# ours\n\nrecache = true   # for now\n# the level\ncompression_level = 9\n\n# end\n"
    host.cli("config", "set", "enabled", "false")
    assert config.read_text().startswith("# ours\n\nrecache = true   # for now\n# the level\ncompression_level = 9\n")
    assert load_settings(host.env).enabled is False


# -- where files are by default ------------------------------------------------------------------------------------

SHOW_PLACES = (
    "import os; from neuron_store.shim.settings import *; import neuron_store.shim.settings as s; "
    "{before}; l = s.load_settings(os.environ); print(l.dir, l.log_file, s.config_path(os.environ), sep='\\n')"
)


def places(environ, before="pass", cwd=None):
    done = subprocess.run(
        [sys.executable, "-c", SHOW_PLACES.format(before=before)],
        env=environ,
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def below(home):
    return [
        f"{home}/.cache/neuron-store",
        f"{home}/.local/state/neuron-store/shim.log",
        f"{home}/.config/neuron-store/config.toml",
    ]


def test_without_home_the_users_home_folder_is_that_of_the_system():
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert places({}) == below(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that the system does not know")
def test_a_user_without_any_home_gets_no_store_in_the_current_folder(tmp_path):
    unknown = next(number for number in range(54321, 60000) if number not in {user.pw_uid for user in pwd.getpwall()})
    assert places({}, before=f"import pwd; os.setuid({unknown})", cwd=tmp_path) == below("")


@pytest.mark.parametrize("home", ["", "somewhere", "~"])
def test_a_home_that_is_no_absolute_path_puts_no_store_in_the_current_folder(tmp_path, home):
    assert places({"HOME": home}, cwd=tmp_path) == below("")


def test_the_xdg_folders_are_used(tmp_path):
    variables = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CACHE", "STATE", "CONFIG")}
    assert places({"HOME": "/home/x", **variables}) == [
        f"{tmp_path}/CACHE/neuron-store",
        f"{tmp_path}/STATE/neuron-store/shim.log",
        f"{tmp_path}/CONFIG/neuron-store/config.toml",
    ]


@pytest.mark.parametrize("relative", ["", "cache", "./cache", "../cache", "~/cache"])
def test_relative_xdg_folders_are_ignored(tmp_path, relative):
    variables = {f"XDG_{kind}_HOME": relative for kind in ("CACHE", "STATE", "CONFIG")}
    assert places({"HOME": str(tmp_path), **variables}, cwd=Path("/")) == below(tmp_path)
