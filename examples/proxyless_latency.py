"""Does a network that ProxylessNAS finds for this processor take as long as the search has predicted?

    python examples/proxyless_latency.py --run runs/proxyless-latency

It searches in mbconv-tiny on digits of 32x32 pixels, for a network that takes half as long as the mean one. Alphas and
weights learn in every step, so that the search ends in minutes: other settings are the published ones. Then the found
network is measured against its prediction. Both change with whatever else the machine does, so they take turns: each
round measures all layers anew, predicts, and measures the network. The ratio that is printed is the median of the
rounds. It depends on the machine; --rounds 9 on a quiet one is better.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from fastdarts.engine.costs import network_costs
from fastdarts.engine.search import search
from fastdarts.policies.expected_cost import ExpectedCost, Setting, linear_loss
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, architecture
from fastdarts.tasks.settings import SearchConfig

SPACE, SIDE, CPU = SPACES["mbconv-tiny"], 32, torch.device("cpu")
SETTING = Setting(SPACE, "mbconv", SPACE.channels, SPACE.layers, SPACE.nodes, 10, (1, SIDE, SIDE), CPU)


def fresh() -> ExpectedCost:
    """The latencies of all layers as they are now."""
    cost = ExpectedCost("latency", 1.0, linear_loss)
    sizes = SPACE.channels, 10, SPACE.layers, torch.nn.CrossEntropyLoss(), SPACE.nodes
    cost.attach(SPACE.supernet(*sizes, in_channels=1, memory="store"), SETTING)
    return cost


def mean_of(cost: ExpectedCost) -> float:
    """Milliseconds of a random network, on average."""
    generator = torch.Generator().manual_seed(1)
    return statistics.mean(cost.predicted(SPACE.sample(generator, SPACE.nodes)) for _ in range(50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/proxyless-latency"), help="folder of the search")
    parser.add_argument("--epochs", type=int, default=20, help="epochs, a quarter of them for the weights alone")
    parser.add_argument("--samples", type=int, default=512, help="training images")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which prediction and measurement take turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = mean_of(fresh()) / 2
    config = SearchConfig(
        method="proxyless", space=SPACE.name, dataset="digits", image_size=SIDE, samples=options.samples, threads=1,
        batch_size=32, epochs=options.epochs, warmup=options.epochs // 4, weight_steps=1, arch_learning_rate=0.02,
        cost="latency", target=f"{target:.4f}ms", cost_loss="linear", cost_weight=1.0, gap_every=0, run=options.run,
    )  # fmt: skip
    found = search(config)
    first, *_, last = (row["expected_latency"] for row in read_metrics(options.run))
    chain = architecture(found["genotype"]).genotype
    ratios = []
    for _ in range(options.rounds):
        predicted = fresh().predicted(chain)
        measured = network_costs(lambda: SETTING.network(chain), SETTING.shape, CPU, ("latency",))["latency"]
        ratios.append(measured / predicted)
        print(f"predicted {predicted:.3f} ms, measured {measured:.3f} ms, ratio {ratios[-1]:.3f}")
    print(f"target {target:.3f} ms; expected {first:.3f} ms after the first epoch, {last:.3f} ms after the last one")
    print(f"predicted in the search {found['cost']['predicted']:.3f} ms; valid error {found['valid_error']:.2f} %")
    print(f"measured / predicted, median of {options.rounds} rounds: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
