"""DARTS+: when its two criteria end a search."""

from types import SimpleNamespace

import pytest
import torch

from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.policies.base import Next
from fastdarts.policies.enough import ManySkips, SameRanking, ranking
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate

TINY = {"method": "darts-plus", "channels": 4, "layers": 3, "samples": 32, "device": "cpu", "threads": 1}
NAMES = SPACES["darts"].primitives(4)["normal"]


def skipping(count: int, epoch: int) -> SimpleNamespace:
    """A search whose normal cell has so many skip connections, after an epoch."""
    ops = ["skip_connect"] * count + ["sep_conv_3x3"] * (8 - count)
    kinds = {
        "normal": (list(zip(ops, [0, 1] * 4, strict=True)), range(2, 6)),
        "reduce": ([("skip_connect", 0)] * 8, ()),
    }
    space = SimpleNamespace(kinds={"normal": "", "reduce": ""}, cells=lambda genotype: kinds)
    return SimpleNamespace(space=space, derive=lambda: None, epoch=epoch, epochs=50)


def test_it_ends_after_the_first_epoch_with_two_skip_connections():
    stopper = ManySkips(2)
    for epoch, count in enumerate((0, 0, 1, 1, 2, 3)):
        then = stopper.after(skipping(count, epoch))
        assert then == (Next(50) if epoch == 4 else Next(epoch + 1))
        if epoch == 4:
            break
    assert stopper.events() == {"stopped": {"epoch": 4, "skips": 2}}
    assert ManySkips(2, begin=5).after(skipping(3, 4)) == Next(5)
    assert ManySkips(2, begin=5).after(skipping(3, 5)) == Next(50)


def ranked(orders: list[int], epoch: int) -> SimpleNamespace:
    table = torch.zeros(14, 8)
    table[:, 4:] = torch.tensor([[float(place) for place in orders]])
    model = SimpleNamespace(primitives={"normal": NAMES}, mixing_weights=lambda: (table,))
    return SimpleNamespace(model=model, epoch=epoch, epochs=50)


def test_it_ends_when_the_order_has_been_the_same_for_ten_epochs():
    """The order of epoch 3 stays; epochs 3 to 12 are ten."""
    orders = [[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 4]] + [[4, 3, 2, 1]] * 20
    stopper, epoch = SameRanking(10), 0
    while (then := stopper.after(ranked(orders[epoch], epoch))) != Next(50):
        epoch = then.epoch
        again = SameRanking(10)
        again.load_state_dict(stopper.state_dict())  # as after a kill
        stopper = again
    assert epoch == 12 and stopper.events() == {"stopped": {"epoch": 12, "same": 10}}


def test_only_operations_that_learn_are_ranked():
    row = [9.0, 8.0, 7.0, 6.0, 1.0, 3.0, 2.0, 3.0]
    assert ranking([row], NAMES[:1]) == [[5, 7, 6, 4]]


def test_epochs_of_a_warm_up_do_not_count():
    stopper = SameRanking(2, begin=5)
    ends = [epoch for epoch in range(9) if stopper.after(ranked([1, 2, 3, 4], epoch)) == Next(50)]
    assert ends[0] == 6
    space = SPACES["darts"]
    for by in ("skips", "ranking"):
        config = resolve(SearchConfig(method="darts-plus", stop_by=by, warmup=3))
        assert config.build(space).stopper.begin == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "s2", "stop_by": "ranking"}, "no edge of space s2 offers two candidates with weights"),
        ({"space": "tiny", "stop_by": "ranking"}, "no edge of space tiny offers two candidates"),
        ({"stop_by": "ranking", "stop_epochs": 51}, "--stop-epochs is 51 after --warmup 0"),
        ({"stop_by": "ranking", "stop_skips": 3}, "--stop-skips is 3, but counts with --stop-by skips only"),
        ({"stop_epochs": 5}, "--stop-epochs is 5, but counts with --stop-by ranking only"),
    ],
)
def test_a_criterion_that_could_not_end_a_search_is_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="darts-plus", **settings))


def test_a_search_ends_early_and_says_when(tmp_path):
    found = search(SearchConfig(**TINY, nodes=1, epochs=5, stop_by="ranking", stop_epochs=2,
                                gap_every=0, run=tmp_path / "run"))  # fmt: skip
    rows = read_metrics(tmp_path / "run")
    assert found["epochs"] == len(rows) == found["stopped"]["epoch"] + 1 < 5
    assert found["genotype"] == rows[-1]["genotype"]
