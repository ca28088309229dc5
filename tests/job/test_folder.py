"""A job's own folder: there while it runs, gone afterwards, however it ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import infinitetalk
from infinitetalk.job.folder import job_folder


def test_the_job_folder_is_gone_after_success_and_failure(tmp_path):
    with job_folder(tmp_path / "work", "job-1") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(bytes(9))
    with pytest.raises(KeyboardInterrupt), job_folder(tmp_path / "work", "job-1"):
        raise KeyboardInterrupt
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("job_id", ["../../etc", "/etc", "a/b", "", ".", "x" * 5000, "\0\n", "ключ"])
def test_no_job_id_leads_out_of_the_work_folder(tmp_path, job_id):
    with job_folder(tmp_path, job_id) as folder:
        assert folder.parent == tmp_path
        assert folder.is_dir()


LEFT_BEHIND = """
import os, signal, sys
from pathlib import Path
from infinitetalk.job.folder import job_folder
with job_folder(Path(sys.argv[1]), "killed") as folder:
    (folder / "large").write_bytes(bytes(9))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_worker_is_removed_by_the_next_job(tmp_path):
    subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND, tmp_path], check=False, cwd=Path(infinitetalk.__file__).parents[1]
    )
    (left,) = tmp_path.iterdir()
    with job_folder(tmp_path, "next"):
        assert left.exists()  # so young that its owner might be about to lock it
    (tmp_path / "infinitetalk-job-file").write_text("not a folder")
    (tmp_path / "other").mkdir()
    with job_folder(tmp_path, "running") as running:
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        with job_folder(tmp_path, "next"):
            assert not left.exists()
            assert running.exists()  # however old
            assert (tmp_path / "other").exists()


def test_two_jobs_of_one_id_do_not_share_a_folder(tmp_path):
    with job_folder(tmp_path, "same") as one, job_folder(tmp_path, "same") as other:
        assert one != other
