"""Recurrent cells: numbers and gradients against the formulas written out, published sizes, genotypes, text."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fastdarts.engine.architect import Architect
from fastdarts.engine.language_evaluation import Average
from fastdarts.errors import FastdartsError
from fastdarts.nn.optim import SGD
from fastdarts.policies.hypergradients import Exact, Unrolled
from fastdarts.report.drawing import cell_text, draw_cell
from fastdarts.spaces.recurrent.cell import DARTSCell, DARTSCellSearch
from fastdarts.spaces.recurrent.genotype import (
    DARTS_V1,
    DARTS_V2,
    ENAS,
    NAMED,
    PRIMITIVES,
    Genotype,
    derive_genotype,
    from_dict,
    parse_genotype,
    to_dict,
)
from fastdarts.spaces.recurrent.model import RNNModel, RNNModelSearch, Segment
from fastdarts.spaces.topology import RECURRENT_CELL
from fastdarts.tasks.language.measure import perplexity
from fastdarts.tasks.language.text import EOS, UNKNOWN, Lengths, in_order, load_corpus, segment, streams

ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "sigmoid": torch.sigmoid, "identity": lambda x: x}
T, B, H = 5, 4, 6


@pytest.mark.parametrize(
    ("build", "words", "width", "count"),
    [
        (RNNModelSearch, 10_000, 300, 4_810_000),
        (lambda *sizes: RNNModel(*sizes, genotype=DARTS_V2), 10_000, 850, 22_960_000),
        (lambda *sizes: RNNModel(*sizes, genotype=DARTS_V2), 33_278, 700, 33_127_878),
    ],
)
def test_published_numbers_of_parameters(build, words, width, count):
    with torch.device("meta"):
        model = build(words, width, width, width)
    assert sum(p.numel() for p in model.parameters()) == count
    names = ["encoder.weight", "rnns.0._W0", *(f"rnns.0._Ws.{i}" for i in range(8)), "decoder.bias"]
    assert [name for name, _ in model.named_parameters()] == names


def masks(cell):
    """What the cell will draw: the mask of its inputs, then that of its states."""
    keep_x, keep_h = 1 - cell.dropoutx, 1 - cell.dropouth
    x = torch.empty(B, cell.ninp, dtype=torch.float64).bernoulli_(keep_x) / keep_x
    return x, torch.empty(B, cell.nhid, dtype=torch.float64).bernoulli_(keep_h) / keep_h


def state_0(cell, x, h, x_mask, h_mask):
    gates = torch.cat((x * x_mask, h * h_mask), 1) @ cell._W0
    c, new = torch.sigmoid(gates[:, : cell.nhid]), torch.tanh(gates[:, cell.nhid :])
    return h + c * (new - h)


def candidate(cell, node, state, h_mask, name):
    """The highway of one activation from one state to one node."""
    gates = (state * h_mask) @ cell._Ws[node]
    c, new = torch.sigmoid(gates[:, : cell.nhid]), ACTIVATIONS[name](gates[:, cell.nhid :])
    return state + c * (new - state)


def normalised(x):
    return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)


def derived_by_formula(cell, inputs, h):
    x_mask, h_mask = masks(cell)
    outputs = []
    for x in inputs:
        states = [state_0(cell, x, h, x_mask, h_mask)]
        for node, (name, source) in enumerate(cell.genotype.recurrent):
            states.append(candidate(cell, node, states[source], h_mask, name))
        h = sum(states[i] for i in cell.genotype.concat) / len(cell.genotype.concat)
        outputs.append(h)
    return torch.stack(outputs)


def mixed_by_formula(cell, inputs, h, weights):
    x_mask, h_mask = masks(cell)
    outputs = []
    for x in inputs:
        states, row = [normalised(state_0(cell, x, h, x_mask, h_mask))], 0
        for node in range(len(cell._Ws)):
            total = 0
            for state in list(states):
                for k, name in enumerate(PRIMITIVES):
                    if name != "none":
                        total = total + weights[row, k] * candidate(cell, node, state, h_mask, name)
                row += 1
            states.append(normalised(total))
        h = sum(states[1:]) / len(cell._Ws)
        outputs.append(h)
    return torch.stack(outputs)


def same_with_gradients(cell, formula, *more):
    """Outputs over several time steps and all gradients through them, up to double rounding."""
    inputs, hidden = torch.randn(T, B, H).double().requires_grad_(), torch.randn(B, H).double().requires_grad_()
    leaves = [inputs, hidden, *more, *cell.parameters()]
    direction = torch.randn(T, B, H).double()
    state = torch.get_rng_state()
    outputs, last = cell(inputs, hidden, *more)
    assert torch.equal(outputs[-1], last)
    found = torch.autograd.grad(outputs, leaves, direction)
    torch.set_rng_state(state)
    truth = formula(cell, inputs, hidden, *more)
    expected = torch.autograd.grad(truth, leaves, direction)
    torch.testing.assert_close(outputs, truth, rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10 * theirs.abs().max().item())


@pytest.mark.parametrize("genotype", [ENAS, DARTS_V1, DARTS_V2])
def test_a_derived_cell_computes_the_formula(genotype):
    same_with_gradients(DARTSCell(H, H, 0.25, 0.5, genotype).double(), derived_by_formula)


def test_the_supernet_cell_computes_the_formula():
    cell = DARTSCellSearch(H, H, 0.25, 0.5).double()
    weights = torch.randn(36, 5).double().softmax(1).requires_grad_()
    same_with_gradients(cell, mixed_by_formula, weights)
    assert cell.bn.num_batches_tracked == 9 * T


def small_supernet(words=11, width=H, nodes=2, **dropouts):
    off = dict.fromkeys(("dropout", "dropouth", "dropoutx", "dropouti", "dropoute"), 0.0)
    model = RNNModelSearch(words, width, width, width, nodes=nodes, **off | dropouts).double()
    with torch.no_grad():
        for p in (*model.parameters(), model.alphas):
            p.normal_(0, 0.5)
    return model


def test_gradients_through_time_are_those_of_finite_differences():
    model = small_supernet(4, 3, dropout=0.5, dropouth=0.5, dropoutx=0.5, dropouti=0.2, dropoute=0.2)
    tokens, hidden = torch.randint(4, (4, 3)), torch.randn(3, 3).double()
    parameters = dict(model.named_parameters())

    def loss(alphas, *values):
        torch.manual_seed(1)
        model._arch_parameters[0] = alphas
        segment = Segment(tokens[:3], hidden)
        names = {f"model.{name}": value for name, value in zip(parameters, values, strict=True)}

        class Loss(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self):
                return model._loss(segment, tokens[1:])

        return torch.func.functional_call(Loss(), names, ())

    assert torch.autograd.gradcheck(loss, (model.alphas, *parameters.values()))


def test_pieces_with_the_state_carried_are_the_whole():
    model = small_supernet()
    text = torch.randint(11, (9, B))
    everything = [model.alphas, *model.parameters()]
    loss, after = model.loss(text[:8], model.init_hidden(B), text[1:])
    truth = torch.autograd.grad(loss, everything)
    # Unfolded at once, nothing is truncated.
    ((tokens, target),) = in_order(text, 35)
    whole = Segment(tokens, model.init_hidden(B))
    for mine, theirs in zip(torch.autograd.grad(model._loss(whole, target), everything), truth, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(whole.after, after) and not whole.after.requires_grad
    # In pieces of which the states are not detached, the sum of the losses is the whole.
    hidden, total = model.init_hidden(B), 0
    for tokens, target in in_order(text, 3):
        piece, hidden = model.loss(tokens, hidden, target)
        total = total + piece * target.numel() / (8 * B)
    torch.testing.assert_close(total, loss)
    for mine, theirs in zip(torch.autograd.grad(total, everything), truth, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dropout_masks_are_shared_as_they_should_be():
    off = dict.fromkeys(("dropout", "dropouth", "dropoutx", "dropouti", "dropoute"), 0.0)
    model = RNNModel(7, H, H, H, **off | {"dropoute": 0.5, "dropouti": 0.5}, genotype=DARTS_V1)
    seen = []
    model.rnns[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = torch.tensor([0, 1, 2, 3, 4, 5, 6] * 2).unsqueeze(1).expand(-1, 3)
    model.outputs(tokens, model.init_hidden(3))
    ratio = seen[0] / model.encoder(tokens)
    assert ((ratio - 4).abs().minimum(ratio.abs()) < 1e-5).all()  # all or nothing, and the mean is kept
    kept = ratio > 2
    words, locked = kept.any(2).any(1), kept.any(0)
    assert torch.equal(words[:7], words[7:]) and 0 < words.sum() < 14  # a word is there at all its places or nowhere
    assert torch.equal(kept, words[:, None, None] & locked) and 0 < locked.sum() < locked.numel()
    model.eval()
    before = torch.get_rng_state()
    model(tokens, model.init_hidden(3))
    assert torch.equal(before, torch.get_rng_state())


def test_the_training_loss_has_both_penalties():
    model = RNNModel(7, H, H, H, genotype=DARTS_V2).eval()
    text = torch.randint(7, (6, B))
    raw, dropped, _ = model.outputs(text[:5], model.init_hidden(B))
    log_probs, _ = model(text[:5], model.init_hidden(B))
    nll = -log_probs.gather(2, text[1:].unsqueeze(2)).mean()
    expected = nll + 2 * dropped.pow(2).mean() + 3 * (raw[1:] - raw[:-1]).pow(2).mean()
    loss, likelihood, _ = model.training_loss(text[:5], model.init_hidden(B), text[1:], 2, 3)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(likelihood, nll)
    alone, _, _ = model.training_loss(text[:1], model.init_hidden(B), text[1:2], 0, 3)
    assert alone.isfinite()


ARGS = SimpleNamespace(momentum=0.0, weight_decay=0.01, arch_learning_rate=3e-3, arch_weight_decay=0.0)


def batches(model):
    text = torch.randint(11, (5, 2, B))
    hidden = [torch.randn(B, H).double() for _ in range(2)]
    train, valid = ((Segment(text[:4, i], hidden[i]), text[1:, i]) for i in range(2))
    return train, valid


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_the_unrolled_gradient_with_clipping_is_that_of_the_formula(clip):
    model, eta = small_supernet(), 0.7
    train, valid = batches(model)
    optimizer = SGD(model.parameters(), eta)
    gradients = {}
    for name, strategy in (("exact", Exact()), ("unrolled", Unrolled(1e-3))):
        architect = Architect(model, ARGS, strategy, False, grad_clip=clip)
        architect.optimizer.step = lambda: None
        architect.step(*train, *valid, eta, optimizer, False)
        gradients[name] = model.alphas.grad.clone()

    weights = list(model.parameters())
    names = [name for name, _ in model.named_parameters()]
    norm = lambda gs: torch.cat([g.flatten() for g in gs]).norm()  # noqa: E731
    g = torch.autograd.grad(model._loss(*train), weights, create_graph=True)
    factor = min(1.0, clip / (norm(g).item() + 1e-6))
    ahead = [w - eta * (factor * d + 0.01 * w) for w, d in zip(weights, g, strict=True)]
    ahead = dict(zip(names, (a.detach().requires_grad_() for a in ahead), strict=True))
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(ahead[name])
    direct, *v = torch.autograd.grad(model._loss(*valid), [model.alphas, *weights])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(own[name])
    shrink = min(1.0, clip / (norm(v).item() + 1e-6))
    g = torch.autograd.grad(model._loss(*train), weights, create_graph=True)
    product = torch.autograd.grad(sum((a * b).sum() for a, b in zip(g, v, strict=True)), model.alphas)[0]
    expected = direct - eta * factor * shrink * product
    torch.testing.assert_close(gradients["exact"], expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradients["unrolled"], expected, rtol=1e-2, atol=1e-4)


def test_without_side_effects_a_finite_difference_sees_one_mask_and_with_them_several():
    model = small_supernet(dropouth=0.5, dropoutx=0.5, dropout=0.5)
    train, valid = batches(model)
    optimizer = SGD(model.parameters(), 0.5)

    def gradient(strategy, side_effects):
        torch.manual_seed(3)
        architect = Architect(model, ARGS, strategy, side_effects)
        architect.optimizer.step = lambda: None
        architect.step(*train, *valid, 0.5, optimizer, False)
        return model.alphas.grad.clone()

    buffers = {name: b.clone() for name, b in model.named_buffers()}
    exact, replayed = gradient(Exact(), False), gradient(Unrolled(), False)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    gradient(Unrolled(), False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    published = gradient(Unrolled(), True)
    assert not torch.equal(state, torch.get_rng_state())
    assert (replayed - exact).norm() < 1e-2 * exact.norm() < (published - exact).norm()


def test_the_average_is_the_mean_of_the_weights_after_each_step():
    model = RNNModel(7, H, H, H, genotype=DARTS_V1)
    average, optimizer, seen = Average(model), SGD(model.parameters(), 0.5, weight_decay=0.1), []
    for _ in range(4):
        tokens = torch.randint(7, (4, B))
        optimizer.zero_grad()
        model.loss(tokens[:3], model.init_hidden(B), tokens[1:])[0].backward()
        optimizer.step()
        average.update()
        seen.append([p.detach().clone() for p in model.parameters()])
    with average.in_place():
        for p, *each in zip(model.parameters(), *seen, strict=True):
            torch.testing.assert_close(p.detach(), torch.stack(each).mean(0))
    assert all(map(torch.equal, seen[-1], model.parameters()))


def test_named_genotypes_round_trip_and_text_forms_are_read():
    for name, genotype in NAMED.items():
        assert from_dict(to_dict(genotype)) == genotype == parse_genotype(name) == parse_genotype(repr(genotype))
    assert len(ENAS.recurrent) == 11 and list(DARTS_V2.concat) == list(range(1, 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NASNet", ["ENAS", "DARTS_V2"]),
        ('{"recurrent": [["tanh", 1]], "concat": [1]}', ["node 1", "0 to 0"]),
        ('{"recurrent": [["none", 0]], "concat": [1]}', ["node 1", "tanh"]),
        ('{"recurrent": [["tanh", 0]], "concat": [2]}', ["concat", "1 to 1"]),
        ('{"space": "s1", "recurrent": [["tanh", 0]], "concat": [1]}', ["image"]),
        ('{"normal": []}', ["recurrent, concat"]),
    ],
)
def test_a_wrong_genotype_is_one_sentence(text, words):
    with pytest.raises(FastdartsError) as error:
        parse_genotype(text)
    assert all(word in str(error.value) for word in words), error.value


def test_derivation_keeps_the_strongest_edge_of_each_node():
    weights = torch.rand(36, 5).softmax(1)
    weights[3, 0] = 5.0  # a none never wins
    weights[6], weights[7] = weights[6:8].max(), weights[6:8].max()  # nor the second of equals
    genotype, row = derive_genotype(weights), 0
    for node, (name, source) in enumerate(genotype.recurrent):
        edges = weights[row : row + node + 1, 1:]
        best = max(itertools.product(range(node + 1), range(4)), key=lambda e, edges=edges: (edges[e], -e[0], -e[1]))
        assert (source, PRIMITIVES[1 + best[1]]) == (best[0], name)
        row += node + 1
    assert genotype.concat == range(1, 9)


def test_the_drawing_shows_every_node_and_both_inputs():
    svg = draw_cell(DARTS_V2.recurrent, DARTS_V2.concat, "Recurrent cell", RECURRENT_CELL)
    assert svg.count('class="op"') == 8 and svg.count('class="state"') == 2 + 9 + 1
    assert "node 6 = sigmoid(5)" in svg and "hₜ = mean(1, 2, 3, 4, 5, 6, 7, 8)" in svg
    text = cell_text(DARTS_V2.recurrent, DARTS_V2.concat, "Recurrent cell", RECURRENT_CELL)
    assert "─▶ 8" in text and "mean ──▶ h_{t}" in text
    with pytest.raises(FastdartsError, match="tanh from state 1"):
        draw_cell(Genotype([("tanh", 1)], [1]).recurrent, [1], "cell", RECURRENT_CELL)


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_corpus_by_words_by_characters_and_with_a_limit(tmp_path):
    folder = write(tmp_path, train="b a\na  b\n", valid="a c\n", test="d")
    words = load_corpus(folder)
    assert words.vocabulary == ("b", "a", EOS, "c", "d")
    assert [words.vocabulary[i] for i in words.train] == ["b", "a", EOS, "a", "b", EOS]
    assert words.test.tolist() == [4, 2]
    letters = load_corpus(folder, "char")
    assert [letters.vocabulary[i] for i in letters.train] == ["b", " ", "a", EOS, "a", " ", " ", "b", EOS]
    limited = load_corpus(folder, limit=3)
    assert limited.vocabulary == (EOS, UNKNOWN, "b")
    assert limited.valid.tolist() == [1, 1, 0]


def test_only_line_feeds_end_lines_and_a_byte_order_mark_is_no_token(tmp_path):
    write(tmp_path, train="a\n", valid="a\n", test="a\n")
    text = "\ufeffa\x0bb\x0cc\x1cd\x1ee\x85f\u2028g\u2029h\r\n\ni\n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    words = load_corpus(tmp_path)
    assert [words.vocabulary[i] for i in words.train] == [*"abcdefgh", EOS, EOS, "i", EOS]
    letters = load_corpus(tmp_path, "char")
    assert [letters.vocabulary[i] for i in letters.train] == [*text[1 : text.index("\r")], EOS, EOS, "i", EOS]


def test_the_digest_tells_texts_of_one_vocabulary_apart(tmp_path):
    texts = {"train": "a b\n", "valid": "b a\n", "test": "a\n"}
    changed = [{"train": "a b b\n"}, {"valid": "b b\n"}, {"test": "b\n"}, {"train": "a b\nb\n", "valid": "a\n"}]
    digests = [load_corpus(write(tmp_path, **texts | change)).digest for change in ({}, *changed)]
    assert len(set(digests)) == 5
    assert load_corpus(write(tmp_path, **texts)).digest == digests[0]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"train": "a\n", "test": "a\n"}, ["validate", "valid.txt"]),
        ({"train": "a\n", "valid": "\n\n", "test": "a\n"}, ["valid.txt is empty"]),
        ({"train": "", "valid": "a\n", "test": "a\n"}, ["train.txt is empty"]),
    ],
)
def test_a_wrong_text_is_one_sentence(tmp_path, texts, words):
    with pytest.raises(FastdartsError) as error:
        load_corpus(write(tmp_path, **texts))
    assert all(word in str(error.value) for word in words), error.value


def test_other_wrong_texts(tmp_path):
    with pytest.raises(FastdartsError, match="--data"):
        load_corpus(None)
    with pytest.raises(FastdartsError, match="not a folder"):
        load_corpus(tmp_path / "nowhere")
    write(tmp_path, train="a", valid="a", test="a")
    (tmp_path / "valid.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(FastdartsError, match=r"valid\.txt cannot be read as UTF-8"):
        load_corpus(tmp_path)
    with pytest.raises(FastdartsError, match="smaller batch"):
        streams(torch.arange(20), 8)


def test_streams_and_segments_predict_every_next_token_once():
    text = streams(torch.arange(103), 4)
    assert text.shape == (25, 4) and torch.equal(text[:, 1], torch.arange(25, 50))
    for lengths in (Lengths(4), Lengths(8, 5.0, 12)):
        for epoch in range(5):
            cut = lengths.draw(25, 3, epoch)
            assert cut == lengths.draw(25, 3, epoch)
            assert [r.start for r in cut] == [0, *(r.stop for r in cut[:-1])] and cut[-1].stop in (23, 24)
            assert all(len(r) >= 2 for r in cut)
            for rows in cut:
                tokens, target = segment(text, rows)
                assert torch.equal(tokens + 1, target)
    drawn = [len(r) for epoch in range(200) for r in Lengths(35, 5.0, 55).draw(400, 1, epoch)[:-1]]
    assert min(drawn) >= 5 and max(drawn) <= 55
    assert sum(drawn) / len(drawn) == pytest.approx(0.95 * 34.5 + 0.05 * 17, abs=1)  # lengths are rounded down
    assert [len(x) for x, _ in in_order(text, 10)] == [10, 10, 4]


def test_a_perplexity_that_is_no_number_is_one_sentence():
    assert perplexity(2.0, "valid") == math.exp(2)
    for loss in (math.nan, 1e4):
        with pytest.raises(FastdartsError, match=r"valid perplexity is (nan|inf) at epoch 3 "):
            perplexity(loss, "valid", "epoch 3")
