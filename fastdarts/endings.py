"""How a process ends: by its work, a signal, Ctrl-C, a closed pipe, or because the process that started it is gone.

Everything that waits for a signal, stops another process or speaks its last words does it with what is here.
"""

from __future__ import annotations

import os
import re
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
ENDING = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)))
"""The signals that end programs and can be listened to."""


def say(text: str) -> None:
    """Print a line on stderr. Where nobody reads it any more, nothing happens."""
    if sys.stderr is not None:
        try:
            print(f"fastdarts: {one_line(text)}", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it, or it is closed
            drop(sys.stderr)


def is_no_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out: by torch's allocators of all systems and devices, or the kernels."""
    said = re.search("can't allocate memory|not enough memory|out of memory|bad_alloc|OutOfMemoryError", repr(error))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said is not None)


def is_unread(stream: TextIO) -> bool:
    """Whether ``stream`` is a pipe whose reader has seen enough."""
    try:
        poll = select.poll()  # not on Windows
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return True


def drop(stream: TextIO) -> None:
    """Let what ``stream`` holds and gets from now on vanish: Python's own flush at its end would fail else, with exit
    code 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Stop:
    """Whether SIGTERM, SIGHUP or Ctrl-C has asked for an end.

    Work goes on to the next place where it can be saved, saves, and calls :meth:`leave`. A second Ctrl-C does not wait:
    it raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._how: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def leave(self, how: str | None) -> NoReturn:
        """End the work: by KeyboardInterrupt after Ctrl-C, else by SystemExit with code 0, as batch systems
        expect of a job that has saved its state. ``how`` to go on is said, unless another rank says it."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(*filter(None, [how]))
        self._how = how
        raise SystemExit(0)

    def close(self) -> None:
        """Say how to go on, once: a study says it for the search that is a piece of it."""
        if self._how:
            say(f"terminated; {self._how}")


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
            with suppress(OSError):  # not by print, which may be at work in this thread
                os.write(2, b"fastdarts: interrupted: stopping after this step is saved; Ctrl-C again stops at once\n")

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        _listening = None
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        stop.close()


def follow_parent(end: Callable[[], None], *, also: Connection | None = None, grace: float = 0.0) -> None:
    """In a process that multiprocessing has started: call ``end`` in a thread when the parent is gone.

    ``also`` may become readable to say that the parent wants an end; it has ``grace`` seconds to come by itself then.
    This works for every start method and every ending of the parent, SIGKILL included. Processes that were forked later
    may hold the pipe open by which Python knows the parent. So the parent's number is looked at too, once a second.
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


@contextmanager
def signals_held() -> Iterator[None]:
    """Around the start of a process: the signals that end programs wait, here and in the new process.

    It imports PyTorch first, which takes seconds, and could not tell the signals from an end of its own in that time.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # where it is started later, it lets the signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent(*numbers: int) -> None:
    """In a process that was started under :func:`signals_held`: ignore these signals, and let the others in.

    They reach all processes of a job, from the terminal or a batch system, and the parent still needs this one.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def is_asked_to_stop() -> bool:
    """Whether a signal has asked the main thread's work for an end."""
    return bool(_listening)
