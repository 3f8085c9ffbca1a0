"""Passes that are recorded once, as CUDA graphs, and replayed: all their kernels start by one call of the host.

A replay computes what the recorded call would compute, bit for bit, from what is in memory at that time: in the inputs,
which are copied into place, in the weights, and in whatever was written to the device before, such as learning rates.
What a pass takes from the host instead (settings of layers, which candidates are computed) is its key. With another key
it is recorded again. Nothing in a pass may read the device or put the random state back: an ordinary call is watched
before the first recording, and what cannot be recorded is called as ever, and said once, with the reason.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdarts.errors import FastdartsError, one_line
from fastdarts.nn.fusion.recognise import watched
from fastdarts.nn.random_state import recording, rewinds
from fastdarts.ranks import world

Pass = Callable[..., tuple[Tensor, ...]]
"""A pass: from tensors on the device to tensors on it, by work that it launches there."""


EVERY = "training steps"


class Recorder(Protocol):
    """Records passes on one device."""

    def beside(self) -> AbstractContextManager[None]:
        """Around ordinary calls of what is to be recorded."""

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What does all that ``launch()`` starts on the device, which is not done now."""


class CudaRecorder:
    """CUDA graphs, which share their memory: one is replayed at a time, and what they leave is copied out of it."""

    def __init__(self, device: torch.device):
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """On the stream of the recordings: what autograd keeps from call to call belongs to the stream it came from."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # other threads may prepare batches meanwhile
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            launch()
        return graph.replay


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""What records passes, by the kind of device."""


class Graphs:
    """How the passes of a run are recorded, and what is said of those that are not.

    Args:
        setting: auto, on or off, see :class:`fastdarts.runs.settings.RunConfig`. auto is on where there is a recorder.
        device: where the passes are computed.
        say: prints a line.

    Raises :class:`FastdartsError` for "on" where nothing can be recorded.
    """

    def __init__(self, setting: str, device: torch.device, say: Callable[[str], None] = lambda text: None):
        self.insists, self.say, self.device = setting == "on", say, device
        self._said: set[str] = set()
        self.recorder: Recorder | None = None
        make = None if setting == "off" else RECORDERS.get(device.type)
        if make is not None and world() > 1:
            self.refuse(EVERY, "several ranks add up their gradients on the way")
        elif make is not None:
            self.recorder = make(device)
        elif setting == "on":
            self.refuse(EVERY, f"the device is {device.type}, and CUDA graphs are of CUDA devices")

    def refuse(self, what: str, reason: str) -> None:
        """Say once that ``what`` is not recorded; raises :class:`FastdartsError` if graphs were insisted upon."""
        if self.insists:
            raise FastdartsError(
                f"--graphs is on, but {what} cannot be recorded as CUDA graphs: {reason}; leave --graphs out"
            )
        if (text := f"{what} run without CUDA graphs: {reason}") not in self._said:
            self.say(text)
            self._said.add(text)


class Captured:
    """A pass that is recorded and replayed where that can be, and called elsewhere.

    Inputs of other shapes than before, as of the last batch of an epoch, are passed by ordinary calls until they come
    twice in a row.

    Args:
        name: of the pass, in the plural, for what is said of it alone.
        function: the pass.
        graphs: how it is recorded.
        why_not: the reason why no pass of its kind can be recorded, as far as that is known without a call; "" for
            none.
    """

    def __init__(self, name: str, function: Pass, graphs: Graphs, why_not: Callable[[], str] = lambda: ""):
        self.name, self.function, self.graphs, self._why_not = name, function, graphs, why_not
        self._open = graphs.recorder is not None
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded: what it works on is gone."""
        self._last: Hashable = None  # shapes of the call before
        self._known: set[Hashable] = set()  # shapes that came twice in a row
        self._watched: Hashable = None
        self._recorded: Hashable = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, key: Callable[[], Hashable], *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results for these inputs, until the next call; ``key()`` is all that the pass takes from the host."""
        if self._open and self._last is None and (reason := self._why_not()):
            self._refuse(reason, EVERY)
        if not self._open:
            return self._call(inputs)
        shapes = tuple((t.shape, t.stride(), t.dtype) for t in inputs)
        before, self._last = self._last, shapes
        if shapes not in self._known:
            if shapes == before:
                self._known.add(shapes)
            return self._call(inputs)
        at = shapes, key()
        if at == self._recorded:
            self._copy(inputs)
            self._replay()
            return self._results
        if at != self._watched:
            return self._watch(at, inputs)
        return self._record(at, inputs)

    def _call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with self.graphs.recorder.beside() if self._open else nullcontext():
            return self.function(*(t.to(self.graphs.device) for t in inputs))

    def _refuse(self, reason: str, what: str = "") -> None:
        self._open = False
        self.forget()
        self.graphs.refuse(what or self.name, reason)

    def _watch(self, at: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """An ordinary call in which it is seen whether the pass can be recorded."""
        if reason := self._why_not():
            self._refuse(reason, EVERY)
            return self._call(inputs)
        inputs = [t.to(self.graphs.device) for t in inputs]  # which is no part of the pass
        before, watch = rewinds(), Watch()
        with watch:
            results = self._call(inputs)
        if watch.reads:
            self._refuse(watch.reads)
        elif watch.draws and rewinds() > before:
            self._refuse(f"random numbers are drawn ({watch.draws}), and drawn again in another pass")
        else:
            self._watched = at
            self._inputs = [
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=self.graphs.device) for t in inputs
            ]
            # outside the memory of the graphs, where the next recording may put something else
            self._results = tuple(map(torch.empty_like, results))
        return results

    def _copy(self, inputs: Sequence[Tensor]) -> None:
        for place, t in zip(self._inputs, inputs, strict=True):
            place.copy_(t, non_blocking=True)

    def _record(self, at: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self._recorded = self._replay = None  # before there is another one, its memory is free
        self._copy(inputs)

        def launch() -> None:
            for place, result in zip(self._results, self.function(*self._inputs), strict=True):
                place.copy_(result)

        try:
            with recording():
                self._replay = self.graphs.recorder.record(launch)
        except RuntimeError as error:  # nothing was computed
            self._refuse(one_line(str(error).splitlines()[0] if str(error) else type(error).__name__))
            return self._call(inputs)
        self._recorded = at
        self._replay()
        return self._results


class Watch(TorchDispatchMode):
    """Sees whether the host reads from the device on the way, and whether random numbers are drawn.

    Attributes:
        reads: what reads first and where, in words; "" if nothing does.
        draws: what draws first, and where.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.draws = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.reads and waits(func, args, kwargs, result):
            self.reads = f"{_name(func)} reads the device {_place()}"
        if not self.draws and torch.Tag.nondeterministic_seeded in func.tags:
            self.draws = f"by {_name(func)} {_place()}"
        return result


def waits(func: Any, args: tuple, kwargs: dict, result: Any) -> bool:
    """Whether the host reads the device, or writes to it, in this call of an op."""
    if func.overloadpacket in INDEXED:  # by a mask it asks how much is left of it
        return any(t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1]) if isinstance(t, Tensor))
    if func.overloadpacket in COPIES:
        places = {t.device for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
        return len(places) > 1
    return not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags)


INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
COPIES = {torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten._foreach_copy_}


def _name(func: Any) -> str:
    return func.overloadpacket.__name__.strip("_")


def _place() -> str:
    """Where in code that is not torch's nor of this file the call at work is made."""
    inside = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith((inside, __file__, "<")):
            return f"in {frame.name} ({Path(frame.filename).name}, line {frame.lineno})"
    return "in a backward pass"


def taken_from_host(*things: Any) -> Hashable:
    """All plain values that these modules, and what they are made of, or other objects hold; of modules also which
    parameters ask for gradients, and where they lie."""
    found: list[Hashable] = []
    for thing in things:
        for part in thing.modules() if isinstance(thing, nn.Module) else [thing]:
            found.append(type(part))
            found += [(name, value) for name, value in getattr(part, "__dict__", {}).items() if _is_plain(value)]
        if isinstance(thing, nn.Module):
            found += [(p.requires_grad, p.data_ptr()) for p in thing.parameters()]
            found += [b.data_ptr() for b in thing.buffers()]
    return tuple(found)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def hooked(model: nn.Module, *optimizers: torch.optim.Optimizer) -> str:
    """Why a model or optimizers with hooks cannot be recorded, as nobody would call them; "" if there are none."""
    if any(own._optimizer_step_pre_hooks or own._optimizer_step_post_hooks for own in optimizers):
        return "the hook of an optimizer is called by the host in every pass"
    if _has_any_global_hook():
        return "hooks on all modules are called by the host in every pass"
    name = next((name for name, module in model.named_modules() if watched(module)), None)
    if name is not None:
        return f"the hook or own forward of {name or 'the network'} is called by the host in every pass"
    name = next((name for name, p in model.named_parameters() if p._backward_hooks), None)
    return f"the hook of {name} is called by the host in every pass" if name else ""
