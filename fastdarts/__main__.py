"""The program ``fastdarts``, also ``python -m fastdarts``."""

import os
import signal
import sys

from fastdarts.cli.commands import answered
from fastdarts.waiting import choose_waiting


def _leave_at_once(*_: object) -> None:
    os.write(2, b"fastdarts: interrupted\n")
    os._exit(130)


def main() -> None:
    """Run the command line; see :func:`fastdarts.cli.entry.main`. Ctrl-C while PyTorch is imported is one line too."""
    if answer := answered(sys.argv[1:]):  # without importing PyTorch
        print(answer)
        return
    choose_waiting(sys.argv[1:])
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as of jobs of nohup
    if own:
        signal.signal(signal.SIGINT, _leave_at_once)
    from fastdarts.cli.entry import main as run

    if own:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
