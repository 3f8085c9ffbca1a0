"""Disparity and segmentation: whole runs, losses and metrics against loops, layouts of data, and what is refused."""

import base64
import copy
import dataclasses
import io
import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.autograd import gradcheck

import fastdarts
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate, recipe
from fastdarts.engine.search import search
from fastdarts.engine.training import Job, Training, next_rate
from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import pack, warped
from fastdarts.notices import Notice
from fastdarts.policies.curvature import hessian_eigenvalues
from fastdarts.spaces import find_space, parse_architecture
from fastdarts.spaces.dense.published import AUTODISPNET_CELLS
from fastdarts.tasks.dense.crops import Augment, Normalise, Tiles
from fastdarts.tasks.dense.labels import load_labels
from fastdarts.tasks.dense.pairs import DEBIAN, load_pairs, read_pair, reduced
from fastdarts.tasks.images.scores import find_score
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import find_task
from fastdarts.testing import check_task
from fastdarts.trained.export import export
from tests.support.dense_data import write_image, write_label_maps, write_pairs, write_pfm

INF = float("inf")
DRAWN = {"dataset": "synthetic", "crop_height": 16, "crop_width": 32, "max_disparity": 6, "pairs": 16}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory):
    return write_label_maps(tmp_path_factory.mktemp("maps"))


def config_of(task, **settings):
    return resolve(SearchConfig(task=task, space="autodispnet", channels=2, layers=3, batch_size=2, **settings))


def objective_of(task, **settings):
    return find_task(task).objective(config_of(task, **settings))[0]


# --- whole runs

SMALL = {"layers": 2, "channels": 2, "samples": 8, "batch_size": 4, "epochs": 1}


def test_disparity_searches_trains_repeats_and_goes_on_after_a_kill(tmp_path):
    check_task("disparity", tmp_path, space="autodispnet", kills=2, ranks=(1, 2), **SMALL, **DRAWN)


def test_segmentation_searches_trains_repeats_and_goes_on_after_a_kill(tmp_path, label_maps):
    given = {"dataset": "folder", "data": label_maps, "crop_height": 16, "crop_width": 16}
    check_task("segmentation", tmp_path, space="autodispnet", kills=2, ranks=(1, 2), **SMALL, **given)


def test_early_stopping_measures_the_eigenvalue_of_three_kinds_of_cells(tmp_path):
    flags = (
        "search --method darts-es --space autodispnet --layers 2 --channels 2 --samples 4 --epochs 2 --batch-size 2 "
    )
    flags += "--eigenvalue-every 1 --crop-height 16 --crop-width 16 --pairs 4 --max-disparity 4 --device cpu"
    main([*flags.split(), "--run", str(tmp_path / "a")])
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(np.isfinite(row["eigenvalue"]) for row in rows)
    assert {"skip_upsample", "entropy_upsample", "weights_upsample", "valid_epe", "valid_bad3", "valid_d1"} <= {
        *rows[0]
    }
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Normal cell", "Reduction cell", "Upsampling cell"))


def test_the_eigenvalue_by_kept_kinks_is_that_of_exact_products():
    """Of the alphas, which begin near 0, in double precision; nothing is said of kinks that cannot be kept."""
    config = config_of("disparity", **DRAWN)
    problem = find_task("disparity").problem(config, find_space("autodispnet"))
    model = problem.network(config, find_space("autodispnet")).double()
    joint = torch.stack([problem.objective.eval_transform()(problem.data.train[k][0]) for k in range(4)]).double()
    batch = joint[:, :6].contiguous(), joint[:, 6:].contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hessian_eigenvalues(model, *batch, radius=1e-2, keep_kinks=True).values[0]
    exact = hessian_eigenvalues(model, *batch).values[0]
    assert exact > 0 and found.item() == pytest.approx(exact.item(), rel=5e-3)


# --- losses and metrics


def test_the_loss_of_disparity_is_the_sum_over_scales_of_mean_errors_where_known():
    objective = objective_of("disparity", **DRAWN)
    generator = torch.Generator().manual_seed(0)
    target = 6 * torch.rand(2, 1, 16, 32, dtype=torch.float64, generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.4] = INF
    target[0, 0, :8, :8] = INF
    maps = [torch.randn(2, 1, 4 // 2**k, 8 // 2**k, dtype=torch.float64, generator=generator) for k in range(2)]
    expected = 0.0
    for n in range(2):
        for m in maps:
            step, errors = 16 // m.shape[2], []
            for y in range(m.shape[2]):
                for x in range(m.shape[3]):
                    block = target[n, 0, y * step : (y + 1) * step, x * step : (x + 1) * step]
                    known = block[block.isfinite()]
                    errors += [abs(m[n, 0, y, x] - known.mean())] if len(known) else []
            expected += sum(errors) / len(errors) / 2
    packed = pack(maps)
    torch.testing.assert_close(objective.criterion(packed, target), expected)
    gradcheck(lambda x: objective.criterion(x, target), packed.requires_grad_())
    single = objective.criterion(packed.float(), target.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=0)


def test_pixels_of_unknown_disparity_have_no_gradient_and_no_image_is_nothing():
    objective = objective_of("disparity", **DRAWN)
    packed = torch.randn(1, 32 + 8, requires_grad=True)
    objective.criterion(packed, torch.full((1, 1, 16, 32), INF)).backward()
    assert packed.grad.eq(0).all()


def test_metrics_of_disparity_are_those_of_their_definition():
    truth = torch.tensor([[[[10.0, 100.0, 100.0, INF, 0.0]]]])
    said = torch.tensor([[[[13.5, 104.0, 106.0, 9.0, 2.0]]]])
    row = {}
    for name in ("epe", "bad3", "d1"):
        score = find_score(name, "disparity")
        row[name] = score.result(score.counted(said, truth), 1)
        assert row[name]["error"] == row[name][name]
    assert row["epe"]["epe"] == pytest.approx((3.5 + 4 + 6 + 2) / 4)
    assert row["epe"]["bad3"] == 75 and row["epe"]["d1"] == 50  # 4 of 100 is within 5 %
    assert np.isnan(find_score("epe", "disparity").result(torch.zeros(4, dtype=torch.float64), 1)["error"])


def test_the_loss_of_classes_is_the_cross_entropy_of_their_shares(label_maps):
    objective = objective_of("segmentation", data=label_maps, crop_height=16, crop_width=16)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(-1, 3, (1, 1, 16, 16), generator=generator).double()
    found = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=generator)
    expected = []
    for y in range(4):
        for x in range(4):
            block = target[0, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            shares = torch.tensor([(block == k).sum().item() / (block >= 0).sum().item() for k in range(3)])
            expected.append(F.cross_entropy(found[:, :, y, x], shares.double()[None]))
    loss = objective.criterion(pack([found]), target)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    gradcheck(lambda x: objective.criterion(x, target), pack([found]).requires_grad_())


def test_intersection_over_union_counts_classes_that_occur():
    score = find_score("iou", "segmentation")
    truth = torch.tensor([[[[0.0, 0.0, 1.0, 1.0, -1.0]]]])
    said = F.one_hot(torch.tensor([[[0, 1, 1, 1, 2]]]), 4).permute(0, 3, 1, 2).double()
    found = score.result(score.counted(said, truth), 1)
    assert found["miou"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2) and found["pixel_error"] == pytest.approx(25)
    assert found["error"] == 100 - found["miou"]


# --- data


def test_augmentation_keeps_the_truth():
    size, mean, std = (8, 8), (0.5,) * 6, (0.25,) * 6
    joint = torch.rand(7, 12, 12)
    joint[6] = 100 * joint[0] + joint[3]  # the target says which pixel of which view it is of
    plain = Normalise(size, mean, std)(joint)
    torch.testing.assert_close(plain[:6], (joint[:6, 2:10, 2:10] - 0.5) / 0.25)
    assert torch.equal(plain[6], joint[6, 2:10, 2:10])
    for seed in range(6):
        torch.manual_seed(seed)
        cut = Augment(size, mean, std, views=2, strength=0.0)(joint)
        colours = cut[:6] * 0.25 + 0.5
        torch.testing.assert_close(cut[6], 100 * colours[0] + colours[3])
    torch.manual_seed(1)
    changed = Augment(size, mean, std, views=2)(joint)
    torch.manual_seed(1)
    assert not torch.equal(changed[:6], Augment(size, mean, std, views=2, strength=0.0)(joint)[:6])


def test_test_images_are_cut_into_parts_without_overlap():
    images = [(torch.arange(35.0).view(1, 5, 7), 0)]
    tiles = Tiles(images, [(5, 7)], (2, 3))
    assert len(tiles) == 4
    assert [tiles[k][0][0, 0, 0].item() for k in range(4)] == [0, 3, 14, 17]


def test_a_pair_at_half_its_size_has_half_the_disparity(pairs):
    example = load_pairs(
        config_of("disparity", dataset="folder", data=pairs, crop_height=8, crop_width=8)
    ).train.examples
    whole, half = read_pair(example[0]), read_pair(example[0], 2)
    assert torch.equal(half, reduced(whole, 2)) and half.shape == (7, 8, 16)
    block = whole[6, 2:4, 6:8]
    known = block[block.isfinite()]
    assert half[6, 1, 3] == (known.mean() / 2 if len(known) else INF)
    torch.testing.assert_close(half[:6, 1, 3], whole[:6, 2:4, 6:8].mean((1, 2)))


LAYOUTS = {
    "FlyingThings3D": ("frames_cleanpass/{}/A/0000/{}/0006", "disparity/{}/A/0000/left/0006.pfm", ("left", "right")),
    "Sintel": ("training/clean_{1}/{0}/frame_0001", "training/disparities/{}/frame_0001.png", ("left", "right")),
    "KITTI 2015": ("training/image_{1}/{0}_10", "training/disp_occ_0/{}_10.png", ("2", "3")),
    "KITTI 2012": ("training/colored_{1}/{0}_10", "training/disp_occ/{}_10.png", ("0", "1")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_sets_are_read_as_they_are_stored(tmp_path, name):
    image, truth, sides = LAYOUTS[name]
    for scene in ("TRAIN", "TEST", "a") if name == "FlyingThings3D" else ("a", "b", "c"):
        for side in sides:
            file = image.format(scene, side) + ".png"
            write_image(tmp_path / file, np.full((64, 64, 3), 0.5))
            if name.startswith("KITTI"):  # the frame after it has no truth
                write_image(tmp_path / file.replace("_10.png", "_11.png"), np.zeros((64, 64, 3)))
        path = tmp_path / truth.format(scene)
        if path.suffix == ".pfm":
            write_pfm(path, np.full((64, 64), 3.0))
        elif name == "Sintel":
            write_image(path, np.full((64, 64, 3), (0, 192, 0), np.uint8))
        else:
            write_image(path, np.full((64, 64), 768, np.uint16))
    data = load_pairs(config_of("disparity", dataset="folder", data=tmp_path))
    assert (len(data.train), len(data.test), data.size, data.channels) == (2, 1, (64, 64), 6)
    assert all((data.train[k][0][6] == 3).all() for k in range(2)) and (data.test[0][0][6] == 3).all()


def test_images_that_are_too_small_for_the_usual_parts_ask_for_other_ones(tmp_path):
    write_pairs(tmp_path, count=4)  # 16x32 pixels
    with pytest.raises(FastdartsError, match="expected 64x64 pixels or more; give --crop-height and --crop-width"):
        load_pairs(config_of("disparity", dataset="folder", data=tmp_path))


def test_a_part_without_truth_is_left_out_and_said(tmp_path, pairs):
    for part in ("training", "testing"):
        write_pairs(tmp_path / part, count=4)
    for file in (tmp_path / "testing" / "disparity").iterdir():
        file.unlink()
    with pytest.warns(Notice, match="the 4 images of test have no truth and are left out"):
        data = load_pairs(config_of("disparity", dataset="folder", data=tmp_path, crop_height=16, crop_width=32))
    assert len(data.train) + len(data.test.images) == 4


def broken(root, what):
    """A folder of pairs in which something is wrong."""
    write_pairs(root, count=4)
    if what == "missing":
        (root / "right" / "2.png").unlink()
    elif what == "mixed":
        write_image(root / "right" / "2.png", np.zeros((16, 30, 3)))
    elif what == "sizes":
        for side in ("left", "right"):
            write_image(root / side / "2.png", np.zeros((24, 32, 3)))
        write_pfm(root / "disparity" / "2.pfm", np.ones((24, 32)))
    elif what == "nan":
        write_pfm(root / "disparity" / "2.pfm", np.full((16, 32), np.nan))
    elif what == "unknown":
        for number in range(4):
            write_pfm(root / "disparity" / f"{number}.pfm", np.full((16, 32), np.inf))
    return root


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "left/2.png has no right/2: expected that file beside each image"),
        ("mixed", "left/2.png is 16x32 but"),
        ("sizes", "give --crop-height and --crop-width"),
        ("nan", "2.pfm has a disparity that is no number"),
        ("unknown", "has a known disparity: expected one at least"),
    ],
)
def test_bad_pairs_are_one_sentence(tmp_path, what, words):
    crop = {} if what == "sizes" else {"crop_height": 16, "crop_width": 32}
    config = config_of("disparity", dataset="folder", data=broken(tmp_path / "x", what), test_portion=0.25, **crop)
    with pytest.raises(FastdartsError) as error:
        data = load_pairs(config)
        for part in (data.train, data.test):
            for k in range(len(part)):
                part[k]
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("class", "3.png has the class 7: expected 0 to 2, or 255 where the class is not known"),
        ("colour", "3.png is a PNG of mode RGB: expected one number of 8 bits"),
        ("missing", "images/3.png has no labels/3"),
        ("size", "is 16x16 but"),
        ("one", "has 1 classes: expected two or more"),
        ("nothing", "holds no images that are known: expected images/ and labels/"),
    ],
)
def test_bad_label_maps_are_one_sentence(tmp_path, what, words):
    root = write_label_maps(tmp_path / "maps", count=4)
    (root / "classes.txt").write_text("ground\ndisc\nsquare\n", encoding="utf-8")
    labels = root / "labels" / "3.png"
    if what == "class":
        write_image(labels, np.full((16, 16), 7, np.uint8))
    elif what == "colour":
        write_image(labels, np.zeros((16, 16, 3)))
    elif what == "missing":
        labels.unlink()
    elif what == "size":
        write_image(labels, np.zeros((16, 8), np.uint8))
    elif what == "one":
        (root / "classes.txt").write_text("ground\n", encoding="utf-8")
        for number in range(4):
            write_image(root / "labels" / f"{number}.png", np.zeros((16, 16), np.uint8))
    else:
        (root / "images").rename(root / "pictures")
    with pytest.raises(FastdartsError) as error:
        data = load_labels(config_of("segmentation", data=root, crop_height=16, crop_width=16))
        for part in (data.train, data.test):
            for k in range(len(part)):
                part[k]
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "disparity", "space": "darts"}, "--space is darts"),
        ({"space": "autodispnet", "crop_height": 20}, "--crop-height is 20: expected a multiple of 8"),
        ({"space": "autodispnet", "layers": 4}, "--layers is 4 but a decoder"),
        ({"space": "autodispnet", "loss": "mse"}, "expected one of huber, l1"),
        ({"space": "autodispnet", "metric": "iou"}, "expected one of bad3, d1, epe"),
        ({"space": "autodispnet", "method": "pc-darts"}, "needs edge_normalisation"),
        ({"space": "autodispnet", "method": "fair-darts"}, "whose edges offer none"),
        ({"space": "autodispnet", "method": "random-ws"}, "needs class logits"),
        ({"space": "autodispnet", "dataset": "folder", "data": None}, "no folder was named"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(settings, words):
    with pytest.raises(FastdartsError) as error:
        search(SearchConfig(**settings))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 2}, "trains 3 networks in turn: expected 3 or more"),
        ({"validation_portion": 0.5}, "the best one may lack some"),
    ],
)
def test_a_stack_in_turn_has_epochs_for_each_network_and_no_best_one(settings, words):
    config = EvaluateConfig(task="disparity", variant="autodispnet-css", genotype="x", **settings)
    with pytest.raises(FastdartsError, match=words):
        config.check_task()
    dataclasses.replace(config, stack="together").check_task()


def test_real_pairs_of_debian_match_their_disparity():
    try:
        data = load_pairs(config_of("disparity", dataset="debian-stereo", pairs=4))
    except FastdartsError as error:
        assert DEBIAN in str(error)
        pytest.skip("python3-skimage and opencv-doc are not installed")
    assert len(data.test.images) == 2 and len(data.test) >= 6
    for joint in (data.test.images[0][0], data.test.images[1][0]):
        known = joint[6].isfinite()
        assert 0.8 < known.float().mean() < 1 and joint[6][known].max() <= 32
        seen = warped(joint[None, 3:6], torch.where(known, joint[6], 0)[None, None])[0]
        wrong, unmoved = ((view - joint[:3]).abs().mean(0)[known].mean() for view in (seen, joint[3:6]))
        assert wrong < 0.4 * unmoved


@pytest.mark.parametrize("method", ["gdas", "dr-nas", "darts"])
def test_sizes_are_those_of_dense_networks_whatever_a_method_has_for_classes(method):
    config = resolve(SearchConfig(method=method, space="autodispnet"))
    sizes = config.batch_size, config.channels, config.layers, config.nodes, config.partial
    assert sizes == (4, 24, 9, 3, 1)
    assert resolve(SearchConfig(method=method, space="autodispnet", channels=6)).channels == 6


def test_a_report_shows_what_was_said_beside_the_truth(tmp_path):
    found = {"genotype": json.dumps(find_space("autodispnet").to_dict(AUTODISPNET_CELLS)), "task": "disparity"}
    evaluate(EvaluateConfig(**found, **SMALL, **DRAWN, threads=1, device="cpu", run=tmp_path / "run"))
    table = json.loads((tmp_path / "run" / "tested_seed_0.json").read_text(encoding="utf-8"))
    assert table["kind"] == "maps" and 6 <= len(table["maps"]) <= 12
    losses = [image["loss"] for image in table["maps"]]
    assert losses[:6] == sorted(losses, reverse=True)[:6]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= len(losses) and "end-point error" in page
    picture = Image.open(io.BytesIO(base64.b64decode(table["maps"][0]["picture"])))
    assert picture.size == (3 * 32 + 2 * 2, 16)
    model = fastdarts.load(tmp_path / "run")
    maps = model(torch.zeros(2, 6, 16, 32))
    assert maps.shape == (2, 1, 16, 32) and maps.min() >= 0
    written = export(model, "pt2", tmp_path / "model.pt2")
    assert written.difference < 1e-4
    _check_predicted(model, tmp_path)


def _check_predicted(model, folder):
    """Maps of whole images: what the model says of images of a size that fits it, and of the same ones cut smaller."""
    views = torch.randint(256, (2, 3, 16, 40), dtype=torch.uint8)
    for name, view in zip(("left", "right"), views, strict=True):
        Image.fromarray(view.permute(1, 2, 0).numpy()).save(folder / f"{name}.png")
    files = [str(folder / f"{name}.png") for name in ("left", "right")]
    main(["predict", str(folder / "run"), *files, "--output", str(folder / "maps"), "--device", "cpu"])
    found = np.load(folder / "maps" / "left.npy")
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (model.facts.mean, model.facts.std))
    images = (views.reshape(6, 16, 40) / 255 - mean) / std
    expected = model(images[None])[0, 0].detach().numpy()
    assert found.dtype == np.float32 and found == pytest.approx(expected, abs=1e-5)
    assert Image.open(folder / "maps" / "left.png").size == (40, 16)
    [cut] = model.predict([view[:, :15, :33] for view in views])
    assert cut.values.shape == (15, 33) and cut.names == ("disparity",)
    assert cut.summary()["max"] == cut.values.max() and cut.image == "image 0"
    for images, words in (
        ([views[0]], "odd number of images"),
        ([views[0], views[1][:, :8]], "image 0 is 16x40 and image 1 is 8x40"),
    ):
        with pytest.raises(FastdartsError, match=words):
            model.predict(images)
    with pytest.raises(FastdartsError, match="gives maps and names no classes"):
        model.predict([*views], top=1)


def test_networks_of_a_stack_are_trained_one_after_another():
    found = json.dumps(find_space("autodispnet").to_dict(AUTODISPNET_CELLS))
    given = {"genotype": found, "task": "disparity", "variant": "autodispnet-css", "learning_rate": 0.01}
    config = EvaluateConfig(**given, **SMALL | {"epochs": 5}, **DRAWN).resolved(find_space("autodispnet"))
    objective, _ = find_task("disparity").objective(config)
    job, device = Job(parse_architecture(found), 0), torch.device("cpu")
    joint = torch.stack([objective.eval_transform()(objective.data.train[k][0]) for k in range(2)])
    batch = joint[:, :6].contiguous(), joint[:, 6:].contiguous()
    training, saved = Training(job, recipe(config), objective, device), None
    for epoch, (part, share) in enumerate([(0, 1), (0, 0.5), (1, 1), (1, 0.5), (2, 1)]):
        if epoch == 3:  # as after a kill
            again = Training(job, recipe(config), objective, device)
            again.load_state_dict(saved)
            training = again
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        rate = training.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(0.01 * share)
        training.begin_epoch(epoch)
        training.step(*batch, objective.meter_type(), epoch, 0)
        moved = {name for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
        cells = [len(frame.plan.places) for frame in training.model.frames]
        first = sum(cells[:part])
        ours = (f"frames.{part}.", *(f"cells.{k}." for k in range(first, first + cells[part])))
        assert moved and all(name.startswith(ours) for name in moved)
        next_rate(training.scheduler)
        if epoch == 2:
            saved = copy.deepcopy(training.state_dict())
    whole = copy.deepcopy(training.model)
    whole.trained = None  # as a network that is loaded
    assert torch.equal(whole(batch[0])[0], training.model(batch[0])[0])
    whole(batch[0])[0].sum().backward()
    assert all(p.grad is not None for p in whole.frames[0].stem0.parameters())


def test_pairs_of_the_test_stay_the_same_however_many_are_learned():
    few, many = (load_pairs(config_of("disparity", **DRAWN | {"pairs": pairs})) for pairs in (4, 9))
    assert (len(few.train), len(many.train), len(few.test)) == (4, 9, 64)
    assert torch.equal(few.test[3][0], many.test[3][0]) and torch.equal(few.train[3][0], many.train[3][0])
    assert not torch.equal(few.test[0][0], few.train[0][0])
