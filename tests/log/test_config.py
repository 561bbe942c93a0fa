import sys
from datetime import timedelta

import pytest

import segstore
from segstore import ConfigError, LogConfig
from segstore.config import parse_age, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [(5, 5), ("5", 5), ("64MiB", 64 * 2**20), ("64 MiB", 64 * 2**20), ("1.5KiB", 1536),
     ("64MB", 64 * 10**6), ("2kB", 2000), ("1GiB", 2**30), ("7Byte", 7)],
)  # fmt: skip
def test_sizes_are_taken_with_exact_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64M", "64k", "64K", "1G", "2T", "64 M"])
def test_a_size_that_could_mean_two_things_is_refused_with_both(text, path):
    number = text[:-1]
    with pytest.raises(ValueError, match="could mean") as caught:
        parse_size(text)
    assert f"{number}{text[-1]}iB".lower() in str(caught.value).lower()
    assert f"{number}{text[-1]}B".lower() in str(caught.value).lower()
    with pytest.raises(ConfigError, match="segment_size"):
        segstore.open(path, segment_size=text)


@pytest.mark.parametrize(
    "text", ["", "MiB", "x", "64mib!", "64Mb", "64Mib", "64b", "\u0666\u0664", "1_000", True,
             1.5, None]
)  # fmt: skip
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5.0), (0.5, 0.5), ("5", 5.0), ("7d", 604800.0), ("1h30m", 5400.0),
     (timedelta(days=1), 86400.0), ("90 seconds", 90.0), ("6m", 360.0), ("6 Minutes", 360.0),
     (0, 0.0)],
)  # fmt: skip
def test_ages_are_taken_in_every_form(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "7x", True, None, [1], "nan", "inf", "1000000000w", "-1h", -1, timedelta(days=-1),
     "6M", "1h30M", "6 M", "1:30"],
)  # fmt: skip
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_age(text)


@pytest.mark.parametrize(
    "options",
    [
        {"segment_size": 100},
        {"segment_size": "3GiB"},
        {"segment_size": -1},
        {"segment_age": 0},
        {"segment_age": -5},
        {"segment_age": "nan"},
        {"segment_age": float("inf")},
        {"index_interval": 1},
        {"index_interval": 64, "segment_size": "2GiB"},
        {"durability": "always"},
        {"sync_interval": 0},
        {"batch_size": 0},
        {"batch_size": "1GiB"},
        {"segment_size": "64KiB", "batch_size": "128KiB"},
        {"compression": "zip"},
        {"retention_records": 0},
        {"retention_records": "many"},
        {"retention_age": "soon"},
        {"retention_hard_size": "1GiB"},
        {"background": "maybe"},
        {"segment_sice": 5},
    ],
)
def test_options_that_can_not_be_used_are_refused_by_name(path, tmp_path, options):
    with pytest.raises(ConfigError) as caught:
        segstore.open(path, **options)
    assert any(name in str(caught.value) for name in options)
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_arguments_win_over_the_environment_and_that_over_toml(path, tmp_path, monkeypatch):
    toml = tmp_path / "log.toml"
    toml.write_text('segment_size = "1MiB"\nbatch_size = "2KiB"\nsync_interval = 3\n')
    monkeypatch.setenv("SEGSTORE_SEGMENT_SIZE", "2MiB")
    monkeypatch.setenv("SEGSTORE_BATCH_SIZE", "4KiB")
    with segstore.open(path, config=toml, segment_size="3MiB") as log:
        config = log.config
    assert config.segment_size == 3 * 2**20
    assert config.batch_size == 4096
    assert config.sync_interval == 3.0


def test_a_config_object_may_be_given_and_overridden(path):
    config = LogConfig(segment_size=2**20, batch_size=1000)
    with segstore.open(path, config=config, batch_size=2000) as log:
        assert log.config.segment_size == 2**20
        assert log.config.batch_size == 2000


@pytest.mark.parametrize(
    ("text", "match"),
    [("segment_size = ", "TOML"), ("colour = 1", "colour"), ('segment_size = "64M"', "64MiB")],
)
def test_a_bad_toml_file_is_named(path, tmp_path, text, match):
    toml = tmp_path / "log.toml"
    toml.write_text(text)
    with pytest.raises(ConfigError, match=match) as caught:
        segstore.open(path, config=toml)
    assert "log.toml" in str(caught.value)
    with pytest.raises(ConfigError, match="absent"):
        segstore.open(path, config=tmp_path / "absent.toml")


def test_a_file_that_is_no_text_is_no_toml(path, tmp_path):
    (tmp_path / "log.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="can't be read as TOML"):
        segstore.open(path, config=tmp_path / "log.toml")


def test_a_bad_variable_is_named_with_its_source(path, monkeypatch):
    monkeypatch.setenv("SEGSTORE_SEGMENT_SIZE", "64M")
    with pytest.raises(ConfigError, match="environment"):
        segstore.open(path)


def test_a_variable_that_is_no_option_is_warned_of_where_the_log_is_opened(path, monkeypatch):
    monkeypatch.setenv("SEGSTORE_HOME", "/srv")
    with pytest.warns(RuntimeWarning, match="SEGSTORE_HOME") as caught:
        segstore.open(path).close()
    assert [warning.filename for warning in caught] == [__file__]
    assert caught[0].lineno == sys._getframe().f_lineno - 2


@pytest.mark.parametrize("config", [{"segment_size": "1MiB"}, 5, ["log.toml"]])
def test_what_is_no_config_is_refused_with_what_is_one(path, config):
    with pytest.raises(ConfigError, match="LogConfig or the path of a TOML file, not"):
        segstore.open(path, config=config)


def test_a_word_in_place_of_a_count_is_refused_with_what_a_count_is(path):
    with pytest.raises(ConfigError, match="retention_records: a count is a whole number above 0"):
        segstore.open(path, retention_records="many")


def test_none_in_the_environment_switches_an_option_off(path, monkeypatch):
    monkeypatch.setenv("SEGSTORE_COMPRESSION", "none")
    monkeypatch.setenv("SEGSTORE_BACKGROUND", "false")
    with segstore.open(path) as log:
        assert log.config.compression is None
        assert log.config.background is False
