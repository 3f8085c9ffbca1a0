"""CUDA graphs without a GPU: every op that a pass dispatches is written down with its tensors, and done again.

As with CUDA, nothing is done while a pass is recorded: afterwards all memory from before is what it was, and whatever
was made on the way holds NaN until it is replayed. A replay reads and writes the very memory that was recorded. Whoever
reads a number meanwhile is refused as by CUDA. Random numbers come from where the generator is at the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdarts.engine import capture

CAPTURING = "operation not permitted when stream is capturing"
UNDECLARED = {torch.ops.aten.native_batch_norm.default}  # it writes running statistics, and does not say so


class Tape(TorchDispatchMode):
    """What was dispatched while it was on."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple, dict, list[tuple[int, Tensor]]]] = []
        self._before: dict[int, tuple[Any, Any]] = {}  # storages from before, and what was in them
        self._made: dict[int, Any] = {}
        self._random = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if capture.waits(func, args, kwargs, ()):
            raise RuntimeError(f"{func}: {CAPTURING}")
        for t in _tensors((args, kwargs)):
            storage = t.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._before:
                self._before[storage._cdata] = storage, storage.clone()
        result = func(*args, **kwargs)
        fresh, known = [], {*self._made, *self._before}
        for place, t in enumerate(tree_leaves(result)):
            if isinstance(t, Tensor) and (storage := t.untyped_storage())._cdata not in known:
                fresh.append((place, t))
                self._made[storage._cdata] = storage
        writes = func in UNDECLARED or any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        if fresh or writes:  # others are views
            self._calls.append((func, args, kwargs, fresh))
        return result

    def undo(self) -> None:
        """As if nothing had been done."""
        for storage, content in self._before.values():
            storage.copy_(content)
        self._before.clear()
        for storage in self._made.values():
            storage.fill_(255)  # NaN in all types of floating point
        torch.set_rng_state(self._random)

    def replay(self) -> None:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, fresh in self._calls:
                again = tree_leaves(func(*args, **kwargs))
                for place, t in fresh:
                    t.copy_(again[place])


def _tensors(values: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(values) if isinstance(t, Tensor))


class FakeRecorder:
    """Records on tapes, and counts.

    ``replaying``: False for replays that do nothing, to see what the host does beside them.
    """

    made: ClassVar[list[FakeRecorder]] = []
    replaying = True

    def __init__(self, device: torch.device):
        self.recorded = self.replayed = 0
        self.made.append(self)

    def beside(self) -> nullcontext[None]:
        return nullcontext()

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        try:
            with pytest.MonkeyPatch.context() as patch, tape:
                patch.setattr(Tensor, "tolist", _refuse)  # which dispatches nothing on the CPU
                launch()
        finally:
            tape.undo()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            if self.replaying:
                tape.replay()

        return replay


def _refuse(tensor: Tensor) -> None:
    raise RuntimeError(f"tolist: {CAPTURING}")


@contextmanager
def fake_graphs() -> Iterator[list[FakeRecorder]]:
    """Inside, passes on the CPU are recorded; gives the recorders that were made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(capture.RECORDERS, "cpu", FakeRecorder)
        patch.setattr(FakeRecorder, "made", [])
        yield FakeRecorder.made
