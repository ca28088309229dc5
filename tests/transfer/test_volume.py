import fcntl
import os
import shutil
import time

import pytest

from infinitetalk.transfer import volume as module
from infinitetalk.transfer.volume import Volume, plain_name


@pytest.fixture
def root(tmp_path):
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_bytes_and_files_arrive_whole(root, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    for name, content in (("bytes", source.read_bytes()), ("copy", source)):
        path = Volume(root).write(f"new/folder/{name}", content)
        assert path == root / "new" / "folder" / name
        assert path.read_bytes() == source.read_bytes() == Volume(root).read(f"new/folder/{name}", 1 << 22)
    assert names(path.parent) == ["bytes", "copy"]


def test_what_was_there_stays_until_the_new_is_whole(root, monkeypatch):
    (root / "file").write_bytes(b"old")

    def full(_):
        assert (root / "file").read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Volume(root).write("file", b"new")
    assert names(root) == ["file"]
    assert (root / "file").read_bytes() == b"old"


def test_only_old_parts_are_swept(root):
    old, young = ".old.part", ".young.part"
    for name in (old, young, "old.mp4"):
        (root / name).write_bytes(b"")
    for name in (old, "old.mp4"):
        os.utime(root / name, (0, time.time() - 100))
    Volume(root).sweep_parts(".", 50.0)
    assert names(root) == [young, "old.mp4"]
    Volume(root).sweep_parts("none", 50.0)


def test_a_file_that_is_being_written_is_not_swept_whatever_its_age(root, monkeypatch):
    """Another worker's clock may be a day ahead."""
    fsync = os.fsync

    def sweep(opened):
        for part in root.glob("folder/.*.part"):
            os.utime(part, (0, time.time() - 1e6))
        monkeypatch.setattr(module.os, "fsync", fsync)
        Volume(root).sweep_parts("folder", 50.0)
        fsync(opened)

    monkeypatch.setattr(module.os, "fsync", sweep)
    assert Volume(root).write("folder/file", b"new").read_bytes() == b"new"


def test_a_file_swept_where_nothing_can_be_locked_is_written_again(root, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    fsync, swept = os.fsync, []

    def sweep(opened):
        for part in root.glob("folder/.*.part"):
            if not swept:
                swept.append(part.unlink())
        fsync(opened)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(module.os, "fsync", sweep)
    assert Volume(root).write("folder/file", b"new").read_bytes() == b"new"
    assert len(swept) == 1


def test_ages_go_by_the_volumes_own_clock(root, monkeypatch):
    (root / "folder" / "job").mkdir(parents=True)
    day_ahead = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: day_ahead)
    Volume(root).sweep_folders("folder", 3600.0)
    assert names(root / "folder") == ["job"]


@pytest.mark.parametrize("planted", ["fifo", "link", "folder", "device"])
def test_only_regular_files_are_read_and_at_once(root, planted):
    path = root / "file"
    if planted == "fifo":
        os.mkfifo(path)
    elif planted == "folder":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd" if planted == "link" else "/dev/zero")
    started_s = time.monotonic()
    with pytest.raises(OSError):
        Volume(root).read("file", 1 << 20)
    assert time.monotonic() - started_s < 1


def test_a_file_larger_than_it_may_be_is_not_read(root):
    (root / "file").write_bytes(bytes(11))
    assert Volume(root).read("file", 11) == bytes(11)
    with pytest.raises(OSError, match="File too large"):
        Volume(root).read("file", 10)


def test_no_link_below_the_volume_is_followed(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (root / "link").symlink_to(outside)
    volume = Volume(root)
    for broken in (lambda: volume.write("link/file", b"ours"), lambda: volume.read("link/file", 99)):
        with pytest.raises(OSError):
            broken()
    volume.remove("link")
    assert names(root) == []
    (root / "file").symlink_to(outside / "file")
    volume.write("file", b"ours")
    assert not (root / "file").is_symlink()
    assert (outside / "file").read_bytes() == b"theirs"


def test_an_old_link_is_swept_and_not_what_it_leads_to(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "jobs").mkdir()
    (root / "jobs" / "old").symlink_to(outside)
    os.utime(root / "jobs" / "old", (0, 0), follow_symlinks=False)
    Volume(root).sweep_folders("jobs", 60.0)
    assert names(root / "jobs") == []
    assert outside.is_dir()


def test_a_volume_in_anothers_place_is_left_alone(root):
    volume = Volume(root)
    shutil.move(root, root.with_name("moved"))
    root.mkdir()
    for use in (lambda: volume.write("a/b", b""), volume.free_bytes, lambda: volume.read("x", 1)):
        with pytest.raises(OSError, match="not mounted any more"):
            use()
    assert names(root) == []


def test_a_probe_leaves_nothing_and_tells_what_a_write_would(root):
    volume = Volume(root)
    volume.probe("output/video")
    assert names(root / "output") == []
    (root / "taken").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"):
        volume.probe("taken/video")
    (root / "output" / "video").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        volume.probe("output/video")
    assert names(root / "output") == ["video"]


def test_there_must_be_a_folder(tmp_path):
    with pytest.raises(OSError):
        Volume(tmp_path / "none")


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
