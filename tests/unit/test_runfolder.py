"""Where a run keeps its files, and how others find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smi_adapter.runfolder import AlreadyRunningError, lock, private_folder, state_folder


def test_one_directory_has_one_folder_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source)
    spellings = (source, Path(), source / "below" / "..", tmp_path / "link", Path("../link"))
    assert len({state_folder(path) for path in spellings}) == 1
    assert state_folder(source / "below") != state_folder(source)


def test_a_folder_is_held_by_one_run_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    private_folder(folder)
    with lock(folder), pytest.raises(AlreadyRunningError):
        lock(folder)
    lock(folder).close()
