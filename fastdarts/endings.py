"""How a process ends: by its work, a signal, Ctrl-C, a closed pipe, or because the process that started it is gone.

Everything that waits for a signal, stops another process or speaks its last words does it with what is here.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import NoReturn, TextIO

from fastdarts.errors import one_line

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""
HANGUP = getattr(signal, "SIGHUP", None)
"""Sent where the terminal ends; not on Windows."""


def say(text: str) -> None:
    """Print a line on stderr. Where nobody reads it any more, nothing happens."""
    with suppress(OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, no stream at all
        print(f"fastdarts: {one_line(text)}", file=sys.stderr, flush=True)


def is_unread(stream: TextIO) -> bool:
    """Whether ``stream`` is a pipe whose reader has seen enough. What is left in it is dropped, so that Python finds
    nothing to write at its end."""
    try:
        poll = select.poll()  # not on Windows
        poll.register(stream.fileno(), 0)
        unread = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        unread = True
    if unread:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return unread


class Stop:
    """Whether SIGTERM, SIGHUP or Ctrl-C has asked for an end.

    Work goes on to the next place where it can be saved, saves, and calls :meth:`leave`. A second Ctrl-C does not wait:
    it raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def leave(self, how: str | None) -> NoReturn:
        """End the work: by KeyboardInterrupt after Ctrl-C, else by SystemExit with code 0, as batch systems
        expect of a job that has saved its state. ``how`` to go on is said, unless another rank says it."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(*filter(None, [how]))
        if how:
            say(f"terminated; {how}")
        raise SystemExit(0)


_listening: Stop | None = None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, SIGTERM, SIGHUP and the first Ctrl-C are noted in the :class:`Stop` that this gives; the same one if
    nested.

    Only the main thread can listen; elsewhere signals do what the program makes them do. A handler for SIGINT that is
    not Python's own stays.
    """
    global _listening
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    if _listening is not None:
        yield _listening
        return
    stop = _listening = Stop()
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.default_int_handler
    if HANGUP and signal.getsignal(HANGUP) is signal.SIG_DFL:  # else it is ignored, as of jobs of nohup
        before[HANGUP] = signal.SIG_DFL

    def note(number: int, _: object) -> None:
        stop.signal = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one does not wait
            say("interrupted: stopping after this step is saved; Ctrl-C again stops at once")

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        _listening = None
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def follow_parent(end: Callable[[], None], *, also: Connection | None = None, grace: float = 0.0) -> None:
    """In a process that multiprocessing has started: call ``end`` in a thread when the parent is gone.

    ``also`` may become readable to say that the parent wants an end; it has ``grace`` seconds to come by itself then.
    Works for every start method and every ending of the parent, SIGKILL included: processes that were forked later may
    hold the pipe open by which Python knows the parent, so the parent's number is looked at too, once a second.
    """
    parent, number = parent_process(), os.getppid()

    def watch() -> None:
        ends = [parent.sentinel, *([also] if also else [])]
        while not (ready := wait(ends, timeout=1.0)) and os.getppid() == number:
            pass
        if ready == [also]:
            wait([parent.sentinel], timeout=grace)
        end()

    threading.Thread(target=watch, daemon=True).start()


def leave_signals_to_parent() -> None:
    """In a helper process: Ctrl-C, the end of the terminal and the SIGTERM of a batch system reach all processes of a
    job, and the parent still needs this one to end its step."""
    for number in filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)):
        signal.signal(number, signal.SIG_IGN)
