"""Connections of thousands of apps come from files, read once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from im_attr_audit import connection_files
from im_attr_audit.connection_files import ConnectionFilesBackend, UnreadableFiles


def test_connections_are_found_in_every_file_in_either_form(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"im_a": {"conn_type": "tencent_im"}}))
    (tmp_path / "b.json").write_text(json.dumps({"im_b": "tencent-im://u:p@example.com"}))
    backend = ConnectionFilesBackend(folder=str(tmp_path))
    assert backend.get_conn_value("im_a") == '{"conn_type": "tencent_im"}'
    assert backend.get_conn_value("im_b") == "tencent-im://u:p@example.com"
    assert backend.get_conn_value("im_c") is None
    found = [backend.get_connection(f"im_{each}") for each in "abc"]
    assert [each and each.conn_id for each in found] == ["im_a", "im_b", None]
    assert [each and each.host for each in found] == [None, "example.com", None]
    assert backend.get_variable("im_a") is None


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_files, "TRUSTED_FOR", 0.0)
    backend = ConnectionFilesBackend(folder=str(tmp_path))
    assert backend.get_conn_value("im_a") is None
    (tmp_path / "a.json").write_text('{"im_a": "tencent-im://"}')
    assert backend.get_conn_value("im_a") == "tencent-im://"


@pytest.mark.parametrize("content", ["{", "[]", '{"im_a": "again"}'])
def test_a_file_that_cannot_be_read_hides_no_connection(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text('{"im_a": "tencent-im://"}')
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UnreadableFiles, match=r"b\.json"):
        ConnectionFilesBackend(folder=str(tmp_path)).get_conn_value("im_a")


def test_a_folder_that_is_not_mounted_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFiles, match="cannot be read: No such file"):
        ConnectionFilesBackend(folder=str(tmp_path / "nowhere")).get_conn_value("im_a")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    # Not by the folder's mode: root may read any.
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UnreadableFiles, match="cannot be read: Permission denied"):
        ConnectionFilesBackend(folder=str(tmp_path)).get_conn_value("im_a")
