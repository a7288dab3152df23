"""Where the cache lies that nobody names."""

from pathlib import Path

import pytest

from attrbench.store import default_cache as module


@pytest.fixture
def users(tmp_path, monkeypatch):
    monkeypatch.delenv(module.VARIABLE)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "users")
    return tmp_path / "users"


def test_the_default_is_the_users_cache_folder(tmp_path, users, caplog):
    assert module.default_cache(tmp_path / "out") == users
    assert not caplog.text


def test_a_cache_of_version_0_1_is_noted_and_not_read(tmp_path, users, caplog):
    (tmp_path / "out" / "cache").mkdir(parents=True)
    assert module.default_cache(tmp_path / "out") == users
    (note,) = caplog.messages
    assert str(tmp_path / "out" / "cache") in note and "--cache" in note


def test_the_environment_variable_goes_first(tmp_path, users, monkeypatch):
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "named"))
    assert module.default_cache(tmp_path / "out") == tmp_path / "named"


def test_the_platform_decides_and_the_folder_bears_our_name(monkeypatch):
    monkeypatch.delenv(module.VARIABLE)
    assert "attrbench" in module.default_cache(Path("nowhere")).parts
