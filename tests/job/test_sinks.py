"""Finished windows on their way to who gets them."""

import sys
import threading
import time

import numpy as np
import pytest

from infinitetalk.job.sinks import FinishedWindow, VideoFile, WindowQueue
from infinitetalk.media import encode
from infinitetalk.media.encode import VideoWriter

FRAMES = np.zeros((5, 64, 96, 3), np.uint8)


class Sink:
    """Keeps what it is given."""

    def __init__(self):
        self.taken: list[FinishedWindow] = []

    def take(self, window):
        self.taken.append(window)


def queue_of(*sinks, pack=lambda frames: frames.tobytes()[:1], give_up=lambda: None):
    return WindowQueue(pack, sinks, give_up)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("windows")]


def test_every_sink_gets_every_window_in_order():
    first, second = Sink(), Sink()
    with queue_of(first, second) as queue:
        for index in range(3):
            queue.put(index, FRAMES, None)
        queue.wait()
    assert first.taken == second.taken == [FinishedWindow(index, b"\0", None) for index in range(3)]
    assert threads() == []


def test_the_next_window_can_be_made_while_one_is_handed_out():
    go_on, packed = threading.Event(), []

    def pack(_frames):
        go_on.wait(10)
        packed.append(len(packed))
        return b""

    with queue_of(pack=pack) as queue:
        queue.put(0, FRAMES, None)
        assert packed == []
        threading.Timer(0.2, go_on.set).start()
        queue.put(1, FRAMES, None)  # waits: two windows of frames are enough memory
        assert packed == [0]
        queue.wait()
    assert packed == [0, 1]


@pytest.mark.parametrize("call", ["put", "wait"])
def test_a_failure_is_told_by_the_next_call(call):
    class Broken(Sink):
        def take(self, window):
            raise KeyError

    with pytest.raises(KeyError), queue_of(Broken()) as queue:
        queue.put(0, FRAMES, None)
        queue.put(1, FRAMES, None) if call == "put" else queue.wait()
    assert threads() == []


def test_what_keeps_a_sink_busy_is_ended_where_the_job_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    started = time.monotonic()
    with (
        pytest.raises(KeyError),
        VideoWriter(tmp_path / "video.mp4", 960, 640) as writer,
        WindowQueue(writer.pack, [VideoFile(writer)], writer.give_up) as queue,
    ):
        queue.put(0, np.zeros((5, 640, 960, 3), np.uint8), None)  # more than a pipe holds
        raise KeyError
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []
    assert threads() == []
