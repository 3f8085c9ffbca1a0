"""The supernet of chains: what it computes, what it derives, and what its networks cost."""

import pytest
import torch

from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.policies.expected_cost import ExpectedCost, Setting, linear_loss
from fastdarts.policies.latency import KEY, chain_keys, key_of
from fastdarts.policies.relaxations import Gumbel
from fastdarts.policies.samplers import chosen_by
from fastdarts.policies.selection import StrongestPairs
from fastdarts.report.describe import macs
from fastdarts.spaces import SPACES
from fastdarts.spaces.chain.genotype import parse_block
from fastdarts.spaces.chain.parts import chain_parts, layer_part
from fastdarts.spaces.chain.published import MNASNET_A1, PROXYLESS_CPU, PROXYLESS_MOBILE
from fastdarts.tasks.settings import SearchConfig, resolve

SPACE = SPACES["mbconv-tiny"]
CPU = torch.device("cpu")
SMALL = {
    "space": "mbconv-tiny", "channels": 4, "epochs": 2, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu",
    "gap_every": 0,
}  # fmt: skip


def supernet(channels: int = 4):
    torch.manual_seed(0)
    sizes = channels, 10, SPACE.layers, torch.nn.CrossEntropyLoss(), SPACE.nodes
    return SPACE.supernet(*sizes, in_channels=1, memory="store")


def test_a_place_that_cannot_be_left_out_has_no_seventh_candidate():
    model = supernet()
    first = [row for row, names in enumerate(model.primitives["chain"]) if names[-1] == "none"]
    assert first == [0, 2, 4] and all(names[-1] == "zero" for names in model.primitives["chain"][1::2])
    with torch.no_grad():
        model.alphas[:, -1] = 100.0
    (strengths,) = model.mixing_weights()
    assert (strengths[::2, -1] == 0).all() and (strengths[1::2, -1] > 0.99).all()
    assert torch.allclose(strengths.sum(1), torch.ones(6))
    assert [block is None for block in model.genotype().blocks] == [False, False, True] + [False, True] * 2
    model.relaxation = Gumbel(1.0, 1.0, 0, hard=True)
    for _ in range(20):
        model.relaxation.draw(model.alpha_tables())
        assert (model.relaxation.mix(*model.alpha_tables(), 0).active[::2] < 6).all()


def test_a_mixture_is_the_weighted_sum_of_its_candidates_and_its_input():
    model, x = supernet().double(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    place, weights = model.places[1], torch.tensor([0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2], dtype=torch.float64)
    x = model.places[0](torch.randn(2, 8, 6, 6, dtype=torch.float64), weights)
    wanted = x + sum(w * op(x) for w, op in zip(weights[:6], list(place.mixed._ops)[:6], strict=True))
    torch.testing.assert_close(place(x, weights), wanted)


def test_one_candidate_for_each_place_is_the_network_of_the_genotype():
    """With the weights of the supernet; a place that is left out gives its input."""
    model, chain = supernet(SPACE.channels).eval(), SPACE.decode([0, 6, 3, 2, 5, 6], 6)
    network = SPACE.network("mbconv", SPACE.channels, 10, SPACE.layers, False, chain, in_channels=1).eval()
    chosen = chosen_by(SPACE, chain, 6)
    assert chosen == {"chain": [0, 6, 3, 2, 5, 6]}
    ops = [model.places[row].mixed._ops[k] for row, k in enumerate(chosen["chain"]) if k < 6]
    pairs = [(network.stem, model.stem), (network.head, model.head), (network.classifier, model.classifier)]
    pairs += zip(network.cells, [model.cells[0], *ops], strict=True)
    for own, shared in pairs:
        own.load_state_dict(shared.state_dict())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model.discrete(x, chosen), network(x)[0])


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_what_is_counted_is_that_of_the_network(kind, channels):
    setting = Setting(SPACE, "mbconv", channels, SPACE.layers, SPACE.nodes, 10, (1, 8, 8), CPU)
    cost = ExpectedCost(kind, 1e4, linear_loss)
    cost.attach(supernet(channels), setting)
    for seed in range(3):
        chain = SPACE.sample(torch.Generator().manual_seed(seed), SPACE.nodes)
        network = setting.network(chain)
        real = sum(p.numel() for p in network.parameters()) if kind == "parameters" else macs(network, (1, 8, 8))
        assert cost.predicted(chain) == real
        hot = torch.nn.functional.one_hot(torch.tensor(SPACE.encode(chain)), 7).float()
        assert cost.expected([hot]).item() == pytest.approx(real, rel=1e-6)


@pytest.mark.parametrize(
    ("chain", "parameters"), [(PROXYLESS_MOBILE, 4_080_512), (PROXYLESS_CPU, 4_361_648), (MNASNET_A1, 3_887_038)]
)
def test_layers_add_up_to_the_published_networks(chain, parameters):
    with torch.device("meta"):
        parts = chain_parts(chain, (224, 224), 3, 1000)
        assert sum(p.numel() for part in parts for p in part.build().parameters()) == parameters
        height, width, channels = parts[0].input
        x = torch.empty(1, channels, height, width)
        for part in parts:
            assert [*x.shape[1:]] == [part.input[2], *part.input[:2]]
            x = part.build().eval()(x)
        assert [*x.shape] == [1, *parts[-1].output]


def test_what_published_keys_do_not_say_is_a_fact_of_its_own():
    keys = chain_keys(MNASNET_A1, (224, 224), 3, 1000)
    assert keys[1] == ("expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0-relu:1")
    assert keys[5].endswith("-expand:3-kernel:5-stride:1-idskip:1-squeeze:250-relu:1")
    dense = parse_block("conv_k5_s1_o8_poolskip")
    part = layer_part(dense, 8, (6, 6), 1, "swish")
    key = key_of(part.name, part.input, part.output, **part.facts)
    assert key == "dense_conv-input:6x6x8-output:6x6x8-kernel:5-stride:1-idskip:1-pool:1-swish:1"
    assert all(KEY.fullmatch(own) for own in (*keys, key))


def test_pairs_of_places_and_candidates_make_a_chain():
    """The rule of GDAS; on a place it is that of the space."""
    strengths = torch.rand(6, 7, generator=torch.Generator().manual_seed(3))
    strengths[::2, -1] = 0.0
    assert StrongestPairs().derive(SPACE, 6, [strengths]) == SPACE.strongest([strengths], 6)


def test_sizes_that_are_left_out_are_those_of_the_chain():
    """Not those that a method has published for cells."""
    for method in ("darts", "gdas", "dr-nas", "random"):
        config = resolve(SearchConfig(method=method, space="mbconv"))
        assert (config.channels, config.layers, config.nodes) == (32, 22, 21)
    assert resolve(SearchConfig(space="mnasnet", method="random")).channels == 32


def test_a_supernet_of_a_chain_is_projected(tmp_path):
    search(SearchConfig(**SMALL, run=tmp_path / "darts"))
    config = projected(tmp_path / "darts", decide_every=1)
    found = search(SearchConfig(**vars(config) | {"run": tmp_path / "projected"}))
    decisions = found["decisions"]
    assert len(decisions) == 6 and {decision["edge"] for decision in decisions} == {*range(6)}
    for decision in decisions:
        lacks = decision["edge"] % 2 == 0
        assert len(decision["without"]) == (6 if lacks else 7) and "none" not in decision["keeps"]
    kept = {decision["edge"]: decision["keeps"][0] for decision in decisions}
    names = [block.rsplit("_s", 1)[0] for block in found["genotype"]["blocks"][1:]]
    assert names == [kept[row] for row in range(6)]
