"""What a running program writes to its standard output, read in pieces."""

import select
import subprocess
import time
from collections.abc import Callable

_POLL_S = 0.1


class Pipe:
    """Reads what a program writes; nobody waits for ever."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        check: Callable[[], object],
        time_limit_s: float,
        failure: Callable[[bool], Exception],
    ) -> None:
        """Read from a process that was started without a buffer.

        Args:
            check: asked while something is waited for; what it raises ends the reading.
            time_limit_s: for each piece.
            failure: what is raised where the program ends before the piece is complete; given True, where it is slow.
        """
        self._process, self._check = process, check
        self._time_limit_s, self._failure = time_limit_s, failure

    def line(self) -> bytes:
        """The next line."""
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = bytearray(1)
            self.fill(memoryview(byte))
            line += byte
        return bytes(line)

    def fill(self, room: memoryview) -> None:
        """Read until `room` is full. Raises the failure."""
        if not self.fill_or_end(room):
            raise self._failure(False)

    def fill_or_end(self, room: memoryview) -> bool:
        """Read until `room` is full; False where the program has ended before the first byte. Raises the failure."""
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + self._time_limit_s
        wanted = len(room)
        while room:
            ready, _, _ = select.select([self._process.stdout], [], [], _POLL_S)
            if not ready:
                self._check()
                if time.monotonic() > deadline_s:
                    raise self._failure(True)
                continue
            n_read = self._process.stdout.readinto(room)  # type: ignore[attr-defined]  # it is a RawIOBase
            if not n_read:
                if len(room) == wanted:
                    return False
                raise self._failure(False)
            room = room[n_read:]
        return True
