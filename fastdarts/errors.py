"""The one exception that means "what you asked for cannot be done": the command line prints it and exits 2."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class FastdartsError(ValueError):
    """Bad input, in one sentence: what was got, what was expected and what to do about it."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """``text`` with line ends and other control characters, which a name may hold, written as escapes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


_ALIKE = 0.66
"""Share of letters in common from which on a name may have been meant."""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def unknown_setting(name: str, value: object, known: Iterable[str]) -> str:
    """A sentence about a setting that is none of ``known``: what was meant, or which there are."""
    known = list(known)
    if isinstance(value, dict):
        return f"unknown setting {name!r}, a table: settings stand at the top of the file, so remove the line [{name}]"
    return f"unknown setting {name!r}" + (did_you_mean(name, known) or f": expected some of {', '.join(known)}")


def did_you_mean(got: object, known: Iterable[str]) -> str:
    """ " (did you mean NAME?)" with the name among ``known`` that is most like ``got``; "" if none is.

    Capitals do not count, nor which of the signs - and _ stands between words, nor the -- of flags.
    """
    plain = {_plain(name): name for name in known}
    near = get_close_matches(_plain(str(got)[:80]), plain, n=1, cutoff=_ALIKE)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


class OutOfMemory(FastdartsError):
    """What was asked for needs more memory than the device has."""


class NotFinite(FastdartsError):
    """The ``tensor`` named, a loss, a gradient or images, holds NaN or an infinity (``value``) on the ``batch`` named.

    ``at`` says where in a run, such as "epoch 0, step 3".
    """

    def __init__(self, tensor: str, value: float, batch: str, at: str = ""):
        self.tensor, self.value, self.batch = tensor, value, batch
        super().__init__(
            f"the {tensor} is {value}{f' at {at}' if at else ''} on the {batch} batch: expected finite numbers; lower "
            "the learning rate or look for bad data"
        )
        self._made_of = tensor, value, batch, at

    def __reduce__(self) -> tuple:  # to travel from one process to another
        return type(self), self._made_of
