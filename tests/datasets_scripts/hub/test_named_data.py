"""Data by name, where there is no Hub: a folder is itself, and a slip of the pen is refused at once."""

import pytest

from casita.datasets_scripts.hub.named_data import data_folder, resolve_revision


def test_a_folder_that_is_there_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "homes" / "milan").mkdir(parents=True)
    for data in ("homes/milan", str(tmp_path / "homes" / "milan"), "homes"):
        assert resolve_revision(data) == data
        assert str(data_folder(data)) == data


@pytest.mark.parametrize("data", ["/no/such/folder", "../milan", "milan", "a/b/c", "homes/mi lan"])
def test_what_cannot_be_a_name_is_left_to_whoever_reads_folders(data):
    assert resolve_revision(data) == data
    assert str(data_folder(data)) == data


@pytest.mark.parametrize("data", ["homes/milam", "lab/kyoto@v1.0", f"lab/kyoto@{'0' * 40}"])
def test_a_name_that_is_not_in_the_cache_is_refused_offline(data):
    with pytest.raises(FileNotFoundError, match=f"^{data}: holds no home.json, for there is no such folder; nor does"):
        data_folder(data)
