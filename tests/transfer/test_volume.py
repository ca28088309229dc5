import os
import time

import pytest

from infinitetalk.transfer import volume
from infinitetalk.transfer.volume import plain_name, sweep_parts, write_whole


def test_bytes_and_files_arrive_whole(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    for name, content in (("bytes", source.read_bytes()), ("copy", source)):
        path = tmp_path / "new" / "folder" / name
        write_whole(path, content)
        assert path.read_bytes() == source.read_bytes()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["bytes", "copy"]


def test_what_was_there_stays_until_the_new_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_):
        assert path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volume.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_only_old_parts_are_swept(tmp_path):
    for name in (".old.part", ".young.part", "old.mp4"):
        (tmp_path / name).write_bytes(b"")
    for name in (".old.part", "old.mp4"):
        os.utime(tmp_path / name, (0, time.time() - 100))
    sweep_parts(tmp_path, 50.0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".young.part", "old.mp4"]
    sweep_parts(tmp_path / "none", 50.0)


@pytest.mark.parametrize("job_id", ["../../up", "/etc/x", "a/b", "", ".", "..", ".hidden", "x" * 500, "a\0b", "\ud800"])
def test_names_are_plain(job_id):
    name = plain_name(job_id)
    assert name.isascii()
    assert not {"/", "\0", "."} & set(name)
    assert 0 < len(name) <= 100
    assert name == plain_name(job_id)


def test_plain_ids_stay_and_others_never_meet():
    assert plain_name("abc-123_u1.x") == "abc-123_u1.x"
    ids = ["a/b", "a_b", "a:b", "a b"]
    assert len({plain_name(job_id) for job_id in ids}) == len(ids)
