"""The process of a rank other than 0: `python -m infinitetalk.ranks.process SOCKET PIPE`, started by `group.Ranks`."""

import os
import sys
import threading
from multiprocessing.connection import Connection


def main() -> None:
    """Follow orders until rank 0 is gone."""
    connection, alive = Connection(int(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(alive,), name="alive", daemon=True).start()
    # This import takes seconds, in which rank 0 may end.
    from infinitetalk.ranks.rank import follow

    follow(connection)
    os._exit(0)  # NCCL would wait for the others


def _end_with(alive: int) -> None:
    """End this process when rank 0's end of the pipe is closed, whatever the process is doing."""
    os.read(alive, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
