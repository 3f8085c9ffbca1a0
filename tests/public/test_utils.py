from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fastdarts import utils
from fastdarts.nn import operations
from fastdarts.spaces.cells.named import DARTS_V2
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.tasks.images import data


def test_meter_weighs_by_samples():
    meter = utils.AvgrageMeter()
    assert (meter.avg, meter.sum, meter.cnt) == (0, 0, 0)
    meter.update(2.0)
    meter.update(5.0, n=3)
    assert (meter.sum, meter.cnt, meter.avg) == (17.0, 4, 4.25)
    meter.reset()
    assert (meter.avg, meter.sum, meter.cnt) == (0, 0, 0)


class TestAccuracy:
    # three classes; the target of sample 0 ranks first, of 1 second, of 2 third, of 3 second
    output = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    target = torch.tensor([0, 1, 2, 1])

    def test_percentages_for_each_k(self):
        top1, top2, top3 = utils.accuracy(self.output, self.target, topk=(1, 2, 3))
        assert (top1.item(), top2.item(), top3.item()) == (25.0, 75.0, 100.0)
        assert [value.item() for value in utils.accuracy(self.output, self.target)] == [25.0]

    def test_non_contiguous_outputs(self):
        output = self.output.t().contiguous().t()
        assert not output.is_contiguous()
        assert [value.item() for value in utils.accuracy(output, self.target, topk=(2, 1))] == [75.0, 25.0]

    def test_top_5_of_fewer_classes(self):
        assert [value.item() for value in utils.accuracy(self.output, self.target, (1, 5))] == [25.0, 100.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_label_smoothing_formula(epsilon):
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(5, (6,))
    smoothed = (1 - epsilon) * F.one_hot(targets, 5) + epsilon / 5
    expected = (-smoothed * torch.log_softmax(logits, dim=1)).mean(0).sum()
    loss = utils.CrossEntropyLabelSmooth(5, epsilon)(logits, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_parameter_count_leaves_auxiliary_heads_out():
    model = nn.ModuleDict({"auxiliary_head": nn.Linear(10, 10), "classifier": nn.Linear(3, 4)})
    assert utils.count_parameters(model) == 16
    assert utils.count_parameters_in_MB(model) == 16 / 1e6


def test_one_definition_of_cutout_and_drop_path():
    assert utils.Cutout is data.Cutout
    assert utils.drop_path is operations.drop_path


class TestCifarTransforms:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))

    def test_valid_is_the_normalised_image(self):
        _, valid = utils._data_transforms_cifar10(Namespace(cutout=False))
        pixels = torch.tensor(np.asarray(self.image)).permute(2, 0, 1) / 255
        mean = torch.tensor([0.49139968, 0.48215827, 0.44653124])[:, None, None]
        std = torch.tensor([0.24703233, 0.24348505, 0.26158768])[:, None, None]
        torch.testing.assert_close(torch.as_tensor(valid(self.image)), (pixels - mean) / std)

    def test_train_crops_and_flips(self):
        torch.manual_seed(0)
        train, valid = utils._data_transforms_cifar10(Namespace(cutout=False))
        plain = valid(self.image)
        padding = valid(Image.new("RGB", (40, 40)))  # padding is black, before normalisation
        padding[:, 4:36, 4:36] = plain
        windows = [padding[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
        flipped = [window.flip(2) for window in windows]
        seen = set()
        for _ in range(20):
            out = train(self.image)
            matches = [("plain", w) for w in windows if torch.equal(out, w)]
            matches += [("flipped", w) for w in flipped if torch.equal(out, w)]
            assert len(matches) == 1
            seen.add(matches[0][0])
        assert seen == {"plain", "flipped"}

    def test_cutout_is_a_clipped_square_of_zeros(self):
        torch.manual_seed(0)
        train, _ = utils._data_transforms_cifar10(Namespace(cutout=True, cutout_length=16))
        white = Image.new("RGB", (32, 32), "white")
        for _ in range(20):
            hole = (train(white) == 0).all(0)
            rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
            height = int(rows.max() - rows.min()) + 1
            width = int(columns.max() - columns.min()) + 1
            assert hole.sum() == height * width
            assert 8 <= height <= 16 and 8 <= width <= 16


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    a, b = (NetworkCIFAR(4, 10, 2, False, DARTS_V2) for _ in range(2))
    utils.save(a, tmp_path / "weights.pt")
    utils.load(b, tmp_path / "weights.pt")
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError, match="Missing key"):
        utils.load(NetworkCIFAR(4, 10, 2, True, DARTS_V2), tmp_path / "weights.pt")


def test_load_runs_no_code(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        utils.load(nn.Linear(2, 2), tmp_path / "pickled.pt")


def test_checkpoints(tmp_path):
    utils.save_checkpoint({"epoch": 1}, True, tmp_path)
    utils.save_checkpoint({"epoch": 2}, False, str(tmp_path))
    files = [torch.load(tmp_path / name) for name in ("checkpoint.pth.tar", "model_best.pth.tar")]
    assert files == [{"epoch": 2}, {"epoch": 1}]


def test_experiment_folder_keeps_the_scripts(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("pass\n", encoding="utf-8")
    utils.create_exp_dir(tmp_path / "a" / "plain")
    assert not list((tmp_path / "a" / "plain").iterdir())
    for _ in range(2):  # an existing folder is fine
        utils.create_exp_dir(str(tmp_path / "run"), scripts_to_save=[str(script)])
    assert (tmp_path / "run" / "scripts" / "train.py").read_text(encoding="utf-8") == "pass\n"
