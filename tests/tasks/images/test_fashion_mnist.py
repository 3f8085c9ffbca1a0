"""A short search and evaluation on real clothes, where the data is."""

import pytest

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.runs.writer import read_metrics
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig


def test_a_short_search_learns_and_its_cell_can_be_trained(tmp_path):
    try:
        load_data("fashion-mnist")
    except FastdartsError as error:
        pytest.skip(f"no Fashion-MNIST on this machine: {error}")
    common = {"dataset": "fashion-mnist", "image_size": 12, "channels": 4, "layers": 3, "threads": 1, "device": "cpu"}
    found = search(SearchConfig(**common, samples=1000, epochs=3, nodes=2, learning_rate=0.1, run=tmp_path / "search"))
    rows = read_metrics(tmp_path / "search")
    # Ten classes: 90 % is chance. Batch statistics, because the running ones lag behind in so short a search.
    assert rows[-1]["supernet_error_batch_stats"] < 70 and rows[-1]["train_loss"] < rows[0]["train_loss"]
    evaluate(
        EvaluateConfig(
            **common,
            samples=2000,
            epochs=3,
            genotype=str(tmp_path / "search" / "genotype.json"),
            auxiliary=False,
            cutout=0.0,
            drop_path_prob=0.0,
            learning_rate=0.1,
            run=tmp_path / "evaluate",
        )
    )
    assert read_metrics(tmp_path / "evaluate")[-1]["test_error"] < 60
    assert found["genotype"] == rows[-1]["genotype"]
