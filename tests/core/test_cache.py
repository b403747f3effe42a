"""Values kept in the user's cache folder."""

from pathlib import Path

import pytest

from blobex.core.cache import cache_folder, is_kept, keep, read_kept


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "blobex"


def test_first_value_stays_unless_it_is_replaced(folder):
    assert not is_kept("a.json") and read_kept("a.json") is None
    for value in ({"x": [1, None]}, {"x": 2}):
        keep("a.json", value)
        assert is_kept("a.json") and read_kept("a.json") == {"x": [1, None]}
    keep("a.json", "other", replace=True)
    assert read_kept("a.json") == "other"
    assert [path.name for path in folder.iterdir()] == ["a.json"]


def test_damaged_file_holds_nothing(folder):
    keep("a.json", 1)
    (folder / "a.json").write_bytes(b"\xff{")
    assert is_kept("a.json") and read_kept("a.json") is None


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep("a.json", 1)
    assert not is_kept("a.json") and read_kept("a.json") is None


def test_folder_is_the_users(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/someone/.cache/blobex")
