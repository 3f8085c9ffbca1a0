"""The published split, and batches that can be started anywhere."""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import torch
import torch.multiprocessing  # tensors then travel between processes in shared memory
from torch import Tensor
from torch.utils.data import Dataset

from fastdarts.endings import ENDING, follow_parent, is_asked_to_stop, leave_to_parent, signals_held
from fastdarts.errors import FastdartsError
from fastdarts.ranks import rank, world
from fastdarts.tasks.images.transforms import as_it_is, shared_end

Key = tuple[int, Tensor]  # (number of the pass, indices into the dataset) of one batch
Transform = Callable[[Tensor], Tensor]


def split(n: int, train_portion: float) -> tuple[range, range]:
    """The published unshuffled split of `n` training samples: the first floor(train_portion * n) train the
    weights, the rest train the alphas (DARTS, Liu et al. 2019, section 3.1).

    Raises FastdartsError if either part would be empty.
    """
    first = math.floor(train_portion * n) if 0 < train_portion < 1 else 0
    if not 0 < first < n:
        raise FastdartsError(
            f"train portion {train_portion} of {n} training images leaves none for the weights or none for "
            "the alphas: choose a portion between 0 and 1, or more images, so that both get at least one"
        )
    return range(first), range(first, n)


Pair = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""From an image and its target to what is learned of it."""
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The same of a whole batch."""


class Request(NamedTuple):
    """What a batch is made of: its place in a pass, the seed, what makes an image of a sample, what makes an example of
    an image and its target, and what mixes them."""

    key: Key
    seed: int
    transform: Transform
    mix: Mix | None = None
    pair: Pair | None = None


class Workers:
    """Processes that make batches, for all :class:`Batches` and all passes of a run. Use as a context manager.

    count: processes; 0 makes every batch in this process when it is asked for.
    datasets: all that batches are made of; each process gets them once, at its start.

    PyTorch's DataLoader starts its workers anew for every pass, which takes 2 s by fork and 100 s by spawn, as their
    transforms change; and an exception in a script, which keeps the loader alive, left them running for ever. These
    end when the context does, and by themselves when this process is gone, however it ended.
    """

    AHEAD = 2  # batches that each process makes before they are asked for
    GRACE = 5.0  # seconds for the batch at work, at the end

    def __init__(self, count: int, *datasets: Dataset) -> None:
        self._count, self._datasets = count, datasets
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._closing.send_bytes(b"end")  # nobody reads it: it stays there for every process to see
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            self._closing.close()
            self._closed.close()

    def load(self, dataset: Dataset, requests: Iterator[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``requests``, in their order.

        Raises :class:`FastdartsError` for an image that cannot be read, and if a process was killed.
        """
        if not self._count:
            for request in requests:
                yield _make(dataset, request)
            return
        number = [known is dataset for known in self._datasets].index(True)
        coming: deque[tuple[Request, Future]] = deque()

        def ask(batches: int) -> None:
            for request in itertools.islice(requests, batches):
                coming.append((request, Future()))  # it is not lost if no process takes it
                coming[-1] = request, self._submit(number, request)

        try:
            ask(self.AHEAD * self._count)
            while coming:
                batch = coming[0][1].result()
                coming.popleft()
                yield batch
                ask(1)
        except BrokenProcessPool as error:
            if not is_asked_to_stop():
                raise FastdartsError(
                    "a process that prepares images has ended: lower --workers or --batch-size if memory was short, "
                    'and let a script begin its work under if __name__ == "__main__"'
                ) from error
            for request in itertools.chain([request for request, _ in coming], requests):
                yield _make(dataset, request)  # the signal has ended them too; the step still wants its batch
        finally:
            for _, batch in coming:
                batch.cancel()

    def _submit(self, number: int, request: Request) -> Future:
        with signals_held():  # it may start a process
            return (self._pool or self._start()).submit(_work, number, request)

    def _start(self) -> ProcessPoolExecutor:
        self._closed, self._closing = multiprocessing.Pipe(duplex=False)
        arguments = self._datasets, self._closed
        self._pool = ProcessPoolExecutor(self._count, multiprocessing.get_context(), _begin_work, arguments)
        return self._pool


IN_THIS_PROCESS = Workers(0)
_datasets: Sequence[Dataset] = ()  # of a process that makes batches


def _begin_work(datasets: Sequence[Dataset], closed: Connection) -> None:
    global _datasets
    leave_to_parent(*ENDING)
    follow_parent(lambda: os._exit(1), also=closed, grace=Workers.GRACE)
    torch.set_num_threads(1)  # the parent's threads are the step's
    _datasets = datasets


def _work(number: int, request: Request) -> tuple[Tensor, Tensor]:
    return _make(_datasets[number], request)


def _make(dataset: Dataset, request: Request) -> tuple[Tensor, Tensor]:
    """A whole batch."""
    (number, indices), seed, transform, mix, pair = request
    images, labels = [], []
    alone, shared = (transform, as_it_is) if pair is not None else shared_end(transform)
    with torch.random.fork_rng(devices=[]):
        for index in indices.tolist():
            # Not torch.manual_seed, which would reseed the accelerators too.
            torch.default_generator.manual_seed(seed_from(seed, number, index))
            image, label = dataset[index]
            image = alone(image)
            if pair is not None:
                image, label = pair(image, label)
            images.append(image)
            labels.append(label)
        x = shared(torch.stack(images)).contiguous()
        y = torch.stack(labels) if isinstance(labels[0], Tensor) else torch.tensor(labels, dtype=torch.int64)
        if mix is not None:
            torch.default_generator.manual_seed(seed_from(seed, number, "mix", int(indices[0])))
            x, y = mix(x, y)
    return x, y


class Batches:
    """Batches (x float32 [B, C, H, W], contiguous, and y int64 [B]) of the samples `indices` of `dataset`,
    whose items are (uint8 tensor [C, H, W], int label). Labels that are tensors are stacked, [B, ...].

    Stateless: the permutation of pass p is a function of (seed, p), and what `transform` draws for a sample
    one of (seed, p, index). So a batch has the same bits whatever came before it, and whether the processes of
    `workers` make it or this one. The global random state is left untouched; `transform` may draw from torch's CPU
    generator only. With fewer samples than `batch_size` a batch is all of them.

    `pair` makes an example of an image and its label; what it draws follows from (seed, p, index), too. `mix` changes
    whole batches: what it draws follows from (seed, p) and the first sample of the batch.

    Of several ranks each gets its part of every batch: parts of neighbouring samples, in the order of the ranks, that
    differ by one sample at most. What is left over at the end of a pass joins the batch before it if it is less than
    `smallest`, as one image alone has no batch statistics where its feature map is one pixel.

    Raises FastdartsError for no samples, and for a batch size below 1.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        batch_size: int,
        transform: Transform,
        seed: int,
        *,
        workers: Workers = IN_THIS_PROCESS,
        smallest: int = 2,
        mix: Mix | None = None,
        pair: Pair | None = None,
    ) -> None:
        if len(indices) == 0:
            raise FastdartsError("got no samples to make batches of: choose at least one")
        if batch_size < 1:
            raise FastdartsError(f"got batch size {batch_size}: choose at least 1")
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.batch_size = min(batch_size, len(indices))
        self.seed = seed
        self.transform = transform
        """What makes an image of a sample; may be replaced between passes."""
        self._smallest, self._mix, self._pair = smallest, mix, pair
        self._dataset = dataset
        self._workers = workers

    def __len__(self) -> int:
        """Batches per pass of `epoch`."""
        return len(self._cut(self.indices))

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of shuffled pass `number` from batch `start` on."""
        return self._load(iter(self._keys(number)[start : len(self)]))

    def endless(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch `start`, start + 1, ... of a stream without end: pass after pass, each a fresh permutation
        cut into full batches (what is left of a pass after its last full batch is not used)."""
        per_pass = len(self.indices) // self.batch_size
        first, skip = divmod(start, per_pass)
        passes = (self._keys(number)[:per_pass] for number in itertools.count(first))
        return self._load(itertools.islice(itertools.chain.from_iterable(passes), skip, None))

    def first(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The first batch of a pass."""
        return next(self.epoch(epoch))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of this number of :meth:`endless`."""
        return next(self.endless(step))

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in the order of `indices`; a random transform draws as in pass 0."""
        return self._load((0, part) for part in self._cut(self.indices))

    def _keys(self, number: int) -> list[Key]:
        generator = torch.Generator().manual_seed(seed_from(self.seed, number))
        shuffled = self.indices[torch.randperm(len(self.indices), generator=generator)]
        return [(number, part) for part in self._cut(shuffled)]

    def _cut(self, indices: Tensor) -> list[Tensor]:
        """`indices` in batches of all ranks."""
        parts = list(indices.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) < min(self._smallest, self.batch_size):
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def _load(self, keys: Iterator[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        keys = ((number, part.tensor_split(world())[rank()]) for number, part in keys)
        own = self._mix, self._pair
        return self._workers.load(self._dataset, (Request(key, self.seed, self.transform, *own) for key in keys))


class Kept(Batches):
    """Batches that are made once and stay in memory, for many trainings on the same passes: `epoch` and `in_order` give
    what those of :class:`Batches` give."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made: dict[int | None, list[tuple[Tensor, Tensor]]] = {}

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of shuffled pass `number` from batch `start` on."""
        if number not in self._made:
            self._made[number] = list(super().epoch(number))
        return iter(self._made[number][start:])

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in the order of `indices`."""
        if None not in self._made:
            self._made[None] = list(super().in_order())
        return iter(self._made[None])


def seed_from(*numbers: int | str) -> int:
    """A seed from several numbers or words. 32 bits: torch's CPU generator ignores the others."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())
