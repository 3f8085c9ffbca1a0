"""``fastdarts.search`` and ``fastdarts.evaluate``: what the command line does, from Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from fastdarts.engine.evaluation import evaluate as run_evaluation
from fastdarts.engine.search import search as run_search
from fastdarts.engine.seeds import search_seeds
from fastdarts.errors import FastdartsError
from fastdarts.registry import methods
from fastdarts.runs.checks import check_setting
from fastdarts.runs.kinds import Seeds
from fastdarts.runs.loggers import Logger
from fastdarts.runs.run import can_go_on, stored_config
from fastdarts.runs.settings import RunConfig, from_dict, from_toml
from fastdarts.runs.watch import Epoch, Watch
from fastdarts.spaces import architecture_text, is_genotype
from fastdarts.tasks.images.own import OwnProblem, as_dataset, own_objective
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

OnEpoch = Callable[[Epoch], object]
Images = Dataset | DataLoader


def search(
    config: SearchConfig | str | Path | None = None,
    *,
    train: Images | None = None,
    valid: Images | None = None,
    classes: int | Sequence[str] | None = None,
    seeds: int = 1,
    on_epoch: OnEpoch | None = None,
    loggers: Sequence[str | Logger] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Search for an architecture, as ``fastdarts search`` does, and leave the folder of the run.

    With datasets of one's own, the same call goes on with the run in the folder ``run``.

    Args:
        config: Settings made before, or a TOML file of settings. ``settings`` come on top.
        train: A dataset of one's own for the weights. Its items are a float tensor [C, H, W] and a label, and all
            images have one shape. Of task regression the second is a number or several, of multilabel a 0 or 1 for
            each label. A DataLoader gives its Dataset and its batch size.
        valid: Another one, for the alphas and for measurements.
        classes: How many classes the labels have, or their names, or those of the targets. By default they are
            found.
        seeds: How many searches there are, with seeds ``seed``, ``seed + 1``, ...
        on_epoch: What is called after each epoch with a :class:`fastdarts.Epoch`. It may raise
            :class:`fastdarts.StopSearch`: the search then ends as after its last epoch.
        loggers: Names ("tensorboard", "wandb", "mlflow") and objects, see :class:`fastdarts.runs.loggers.Logger`.
        **settings: Flags of the command as keywords, such as ``method="pc-darts"`` and ``batch_size=64``.

    Returns:
        What result.json holds, and ``run``, the folder. With several seeds, ``run`` and ``results``.

    Raises:
        FastdartsError: A setting or the data cannot be. It is raised before any work.
        NotFinite: A loss, a gradient or a weight is not finite. The last checkpoint stays as it was.

    Examples:
        >>> import fastdarts
        >>> errors = []
        >>> tiny = dict(dataset="digits", samples=64, epochs=1, channels=4, layers=3)
        >>> found = fastdarts.search(**tiny, on_epoch=lambda epoch: errors.append(epoch.row["valid_error"]))
        >>> errors == [found["valid_error"]]
        True
    """
    settings, objects = _with_loggers(settings, loggers)
    watch = Watch(on_epoch, objects)
    check_setting("seeds", seeds, Seeds)
    if train is None and valid is None:
        made = _settings(config, settings, SearchConfig, "search")
        if getattr(made, "dataset", "") == "own" and made.resume is not None:
            raise FastdartsError(f"the run in {made.resume} is on datasets of your own: give train and valid again")
        if seeds != 1:
            _refuse_watch(watch)
            return search_seeds(made, seeds)
        return run_search(made, watch)
    if train is None or valid is None:
        raise FastdartsError("got one of train and valid: give both, one for the weights and one for the alphas")
    if seeds != 1:
        raise FastdartsError("got seeds beside train and valid: call search() with each seed and a folder of its own")
    (train, found), (valid, _) = as_dataset(train, "train"), as_dataset(valid, "valid")
    made = _own_settings(config, found | settings, SearchConfig, "search")
    watch = dataclasses.replace(watch, how="go on by the same call of search()")
    return run_search(made, watch, lambda resolved, space: OwnProblem(resolved, train, valid, classes))


def evaluate(
    config: EvaluateConfig | str | Path | None = None,
    *,
    train: Images | None = None,
    test: Images | None = None,
    classes: int | Sequence[str] | None = None,
    on_epoch: OnEpoch | None = None,
    loggers: Sequence[str | Logger] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a genotype from scratch and test it, as ``fastdarts evaluate`` does.

    With datasets of one's own, the same call goes on with the run in the folder ``run``. Their images are neither
    augmented nor normalised here. The model of such a run takes files as pixels from 0 to 1.

    Args:
        config: Settings made before, or a TOML file of settings. ``settings`` come on top.
        train: A dataset of one's own for the weights, as for :func:`fastdarts.search`.
        test: Another one, for the test.
        classes: How many classes the labels have, or their names, or those of the targets. By default they are
            found.
        on_epoch: What is called after each epoch with a :class:`fastdarts.Epoch`. It cannot end a training, whose
            number of epochs is fixed.
        loggers: Names and objects, as for :func:`fastdarts.search`.
        **settings: Flags of the command as keywords. ``genotype`` may also be what a search gives as
            ``found["genotype"]``, or a ``Genotype``.

    Returns:
        What result.json holds, and ``run``, the folder.

    Raises:
        FastdartsError: A setting, the data or the genotype cannot be. It is raised before any work.
        NotFinite: A loss, a gradient or a weight is not finite. The last checkpoint stays as it was.

    Examples:
        >>> import fastdarts
        >>> tiny = dict(dataset="digits", samples=64, epochs=1, channels=4, layers=3)
        >>> len(fastdarts.evaluate(genotype="DARTS_V2", **tiny)["test_errors"])
        1
    """
    settings, objects = _with_loggers(settings, loggers)
    watch = Watch(on_epoch, objects)
    if train is None and test is None:
        made = _settings(config, settings, EvaluateConfig, "evaluate")
        if getattr(made, "dataset", "") == "own" and made.resume is not None:
            raise FastdartsError(f"the run in {made.resume} is on datasets of your own: give train and test again")
        return run_evaluation(made, watch)
    if train is None or test is None:
        raise FastdartsError("got one of train and test: give both, one for the weights and one for the test")
    (train, found), (test, _) = as_dataset(train, "train"), as_dataset(test, "test")
    made = _own_settings(config, found | settings, EvaluateConfig, "evaluate")
    if made.cutout is None:  # the published one is for images that fastdarts augments
        made = dataclasses.replace(made, cutout=0.0)
    watch = dataclasses.replace(watch, how="go on by the same call of evaluate()")
    return run_evaluation(made, watch, lambda resolved: own_objective(resolved, train, test, classes))


def _own_settings(
    config: RunConfig | str | Path | None, settings: dict[str, Any], kind: type[RunConfig], command: str
) -> Any:
    """The settings of a run on datasets of one's own, which goes on where its folder holds one."""
    named = settings.get("dataset")
    if named is None and config is not None:
        found = getattr(_settings(config, settings, kind, command), "dataset", None)
        named = None if found == DataConfig.dataset else found
    if named not in (None, "own"):
        raise FastdartsError(f"got dataset {named!r} beside datasets of your own: leave one of them out")
    made = _settings(config, settings | {"dataset": "own"}, kind, command)
    if made.run is not None and can_go_on(made.run):
        made = dataclasses.replace(made, run=None, resume=made.run)
    return made


def _with_loggers(
    settings: dict[str, Any], loggers: Sequence[str | Logger] | None
) -> tuple[dict[str, Any], tuple[Logger, ...]]:
    """The settings with the names among ``loggers``, and the others."""
    if loggers is None:
        return settings, ()
    named = tuple(one for one in loggers if isinstance(one, str))
    return settings | {"loggers": named}, tuple(one for one in loggers if not isinstance(one, str))


def _settings(
    config: RunConfig | str | Path | None, settings: dict[str, Any], kind: type[RunConfig], command: str
) -> Any:
    values = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in settings.items()}
    if isinstance(several := values.get("genotypes"), list | tuple):
        values["genotypes"] = tuple(map(architecture_text, several))
    if isinstance(config, RunConfig):
        stored = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        return from_dict(_plain(stored) | values, kind, f"{command}()")
    if isinstance(config, str) and not os.path.exists(config):
        meant = {"method": config in methods(), "genotype": is_genotype(config)}
        if name := next((name for name, holds in meant.items() if holds), None):
            raise FastdartsError(f"{command}() got {config!r} for a settings file: give {name}={config!r}")
    if config is not None:
        return from_toml(Path(config), kind, **values)
    if values.get("resume") is not None:
        stored = dataclasses.asdict(stored_config(Path(values["resume"]).expanduser(), command, kind))
        values = {name: value for name, value in _plain(stored).items() if name != "run"} | values
    return from_dict(values, kind, f"{command}()")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if value is not None}
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in kept.items()}


def _refuse_watch(watch: Watch) -> None:
    if watch.on_epoch is not None or watch.loggers:
        raise FastdartsError(
            "got seeds beside on_epoch or loggers that are objects: call search() with each seed, so that you know "
            "whose epoch it is"
        )
