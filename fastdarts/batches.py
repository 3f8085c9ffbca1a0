"""The published split, and batches that can be started anywhere."""

from __future__ import annotations

import hashlib
import itertools
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastdarts.distributed import rank, world
from fastdarts.errors import FastdartsError

Key = tuple[int, Tensor]  # (number of the pass, indices into the dataset) of one batch


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


class Batches:
    """Batches (x float32 [B, C, H, W], contiguous, and y int64 [B]) of the samples `indices` of `dataset`,
    whose items are (uint8 tensor [C, H, W], int label).

    Stateless: the permutation of pass p is a function of (seed, p), and what `transform` draws for a sample
    one of (seed, p, index). So a batch has the same bits whatever came before it and however many `workers`
    (processes; 0 is this one) load it. The global random state is left untouched; `transform` may draw from
    torch's CPU generator only. With fewer samples than `batch_size` a batch is all of them.

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
        transform: Callable[[Tensor], Tensor],
        seed: int,
        *,
        workers: int = 0,
        smallest: int = 2,
    ) -> None:
        if len(indices) == 0:
            raise FastdartsError("got no samples to make batches of: choose at least one")
        if batch_size < 1:
            raise FastdartsError(f"got batch size {batch_size}: choose at least 1")
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.batch_size = min(batch_size, len(indices))
        self.seed = seed
        self._smallest = smallest
        self._augmented = _Augmented(dataset, transform, seed)
        self._workers = workers

    @property
    def transform(self) -> Callable[[Tensor], Tensor]:
        """What makes an image of a sample; may be replaced between passes."""
        return self._augmented.transform

    @transform.setter
    def transform(self, transform: Callable[[Tensor], Tensor]) -> None:
        self._augmented.transform = transform

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
        # Without a generator of its own, the loader draws a seed for its workers from the global one.
        loader = DataLoader(
            self._augmented,
            batch_size=None,
            sampler=keys,
            num_workers=self._workers,
            worker_init_fn=_leave_sigterm_to_the_parent,
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, FastdartsError):
                raise batch
            x, y = batch
            yield x, y


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


class _Augmented(Dataset):
    """Whole batches by key; an error is returned, since a worker would bury a raised one in its traceback."""

    def __init__(self, dataset: Dataset, transform: Callable[[Tensor], Tensor], seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor] | FastdartsError:
        number, indices = key
        images, labels = [], []
        with torch.random.fork_rng(devices=[]):
            for index in indices.tolist():
                # Not torch.manual_seed, which would reseed the accelerators too.
                torch.default_generator.manual_seed(seed_from(self.seed, number, index))
                try:
                    image, label = self.dataset[index]
                except FastdartsError as error:
                    return error
                images.append(self.transform(image))
                labels.append(label)
        return torch.stack(images).contiguous(), torch.tensor(labels, dtype=torch.int64)


def _leave_sigterm_to_the_parent(_: int) -> None:
    """A batch system sends SIGTERM to every process of a job; the parent still needs its batch to end the step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def seed_from(*numbers: int) -> int:
    """A seed from several numbers. 32 bits: torch's CPU generator ignores the others."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())
