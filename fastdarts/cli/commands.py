"""The commands of ``fastdarts``: each a dataclass whose fields are its flags."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
import tyro
from tyro.conf import OmitArgPrefixes

from fastdarts import ranks
from fastdarts.cli.listing import flag_texts
from fastdarts.errors import FastdartsError
from fastdarts.runs.kinds import Batch, Count, Few, NotNegative, NotNegativeInt, Positive, Seed, Width, Workers
from fastdarts.runs.settings import RunConfig
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import find_task


@dataclass(frozen=True)
class BySettings:
    """A command whose flags are the fields of a class of settings, in groups."""

    config: Path | None = None
    """Read settings from this TOML file; flags come on top."""

    parts: ClassVar[Mapping[str, type]] = {}
    """The groups of flags."""
    kind: ClassVar[type[RunConfig]] = RunConfig
    """The settings that they make."""

    @classmethod
    def having(cls, settings: RunConfig) -> BySettings:
        """The command with these settings."""
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        return cls(
            **{title: part(**{f.name: values[f.name] for f in fields(part)}) for title, part in cls.parts.items()}
        )

    @property
    def settings(self) -> Any:
        """What the flags say."""
        return self.kind(**{name: value for title in self.parts for name, value in vars(getattr(self, title)).items()})


@functools.cache
def by(command: type[BySettings], settings: type[RunConfig]) -> type[BySettings]:
    """The command for these settings: its flags are their fields, in groups, those of a method first."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    helps, hints = flag_texts(settings), get_type_hints(settings, include_extras=True)
    left = {field.name: field for field in fields(settings)}
    for owner in settings.owners():
        for name in [name for name in vars(owner).get("__annotations__", ()) if name in left]:
            hint = Annotated[hints[name], tyro.conf.arg(help=helps[name])]
            default = dataclasses.field(default=left.pop(name).default)
            groups.setdefault(vars(owner).get("group", "method"), []).append((name, hint, default))
    parts = {title: dataclasses.make_dataclass(title, group, frozen=True) for title, group in groups.items()}
    nested = [(title, OmitArgPrefixes[part], dataclasses.field(default=part())) for title, part in parts.items()]
    namespace = {"__doc__": settings.__doc__, "parts": parts, "kind": settings}
    return dataclasses.make_dataclass(command.__name__, nested, bases=(command,), frozen=True, namespace=namespace)


@dataclass(frozen=True)
class Search(BySettings):
    """Search for a cell and leave its genotype, checkpoint and report in the run's folder."""

    def run(self) -> None:
        """Search and print the genotype, how good its supernet is, and the report's path."""
        settings = self.settings
        if getattr(settings, "supernet", None) is not None and settings.resume is None:
            raise FastdartsError(
                f"--supernet is {settings.supernet}: a supernet is projected by fastdarts project, with the settings "
                "of its search"
            )
        _search(settings)


@dataclass(frozen=True)
class Project:
    """Derive the genotype of a finished search by what its supernet loses without each candidate, tuning it in between
    (DARTS-PT; after a search by method blank, blank-PT)."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """The folder of the search."""
    decide_every: Batch | None = None
    """Epochs of tuning from one decision to the next (5)."""
    criterion: Literal["accuracy", "loss"] | None = None
    """What of the supernet without a candidate decides (accuracy)."""
    bn_statistics: Literal["batch", "running"] | None = None
    """By which BatchNorm normalises there: those of the batch (the default), or the running ones, which do not know
    what has been decided since the last tuning."""
    learning_rate: Positive | None = None
    """SGD learning rate of the tuning, which stays (a tenth of the search's)."""
    alignment_every: NotNegativeInt | None = None
    """Epochs between two measurements of the layer alignment (the search's)."""
    seed: Seed | None = None
    """Seed of the order of decisions and of the images (the search's)."""
    data: Path | None = None
    """Folder of the dataset (the search's)."""
    workers: Workers | None = None
    """Processes that prepare images (the search's)."""
    device: str | None = None
    """cpu, cuda, cuda:1, ... (the search's)."""
    threads: Count | None = None
    """CPU threads (the search's)."""
    checkpoint_minutes: NotNegative | None = None
    """Minutes between checkpoints within an epoch or a decision (the search's)."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder for everything the run leaves; by default a new one under runs/."""
    resume: Path | None = None
    """Go on with the projection in this folder."""

    def run(self) -> None:
        """Project and print what a search prints."""
        from fastdarts.engine.projecting import Projecting, projected, projection_epochs
        from fastdarts.runs.run import stored_config

        if (self.folder is None) == (self.resume is None):
            raise FastdartsError("project needs the folder of a search, or --resume and that of a projection")
        config = projected(self.folder) if self.folder else stored_config(self.resume, "search", SearchConfig)
        if not isinstance(config, Projecting):
            raise FastdartsError(f"{self.resume} is no projection: go on with it by fastdarts search --resume")
        names = (
            "decide_every", "criterion", "bn_statistics", "learning_rate", "alignment_every", "seed", "data", "workers",
            "device", "threads", "checkpoint_minutes",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        if "learning_rate" in given:
            given["learning_rate_min"] = given["learning_rate"]
        config = replace(config, **given, run=self.run_folder, resume=self.resume)
        _search(replace(config, epochs=projection_epochs(config)))


def _search(settings: SearchConfig) -> None:
    from fastdarts.engine.search import search

    result = search(settings)
    if ranks.rank():
        return
    print(f"genotype {json.dumps(result['genotype'])}")
    metric = find_task(settings.task).metric
    print(f"{metric.said(result[metric.name])}  ({result['seconds']:.1f} s)")
    print(f"report {Path(result['run']) / 'report.html'}")


@dataclass(frozen=True)
class Evaluate(BySettings):
    """Train a genotype from scratch and test it."""

    def run(self) -> None:
        """Evaluate and print how good the network is, its size and the report's path."""
        from fastdarts.engine.evaluation import evaluate

        settings = self.settings
        result = evaluate(settings)
        if ranks.rank():
            return
        print(f"{find_task(settings.task).tested(result)}  ({result['seconds']:.1f} s)")
        macs = f"  macs {result['macs']:,}" if "macs" in result else ""
        print(f"parameters {result['parameters']:,}{macs}")
        print(f"report {Path(result['run']) / 'report.html'}")


@dataclass(frozen=True)
class Study:
    """Train every architecture of a small space from scratch, search in it on the same images, and see how good the
    architecture is that the search would derive after each epoch. Stopped, it goes on by the same command."""

    settings: OmitArgPrefixes[StudyConfig]
    space: Annotated[Literal["tiny"], tyro.conf.Positional] = "tiny"
    """The space."""
    config: Path | None = None
    """Read settings from this TOML file; flags come on top."""

    def run(self) -> None:
        """Study and print the best, median and worst architecture, the regret of the searches and the report's path."""
        from fastdarts.study.report import study_text
        from fastdarts.study.tiny import study

        found = study(self.settings)
        print(study_text(found))
        print(f"report {Path(found['run']) / 'report.html'}")


@dataclass(frozen=True)
class Report:
    """Write report.html of the folder of a run or of a study anew."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Write the report and print its path."""
        from fastdarts.report.write import write_report
        from fastdarts.study.report import STUDY, write_study

        write = write_study if (self.folder / STUDY).exists() else write_report
        print(f"report {write(self.folder)}")


@dataclass(frozen=True)
class Describe:
    """Say how large a genotype's network or the supernet is, and draw its cells."""

    genotype: str | None = None
    """A name (DARTS_V2), a genotype.json, inline JSON, a printed Genotype(...), or the string of NAS-Bench-201."""
    supernet: bool = False
    """Describe the search network of DARTS instead."""
    space: str | None = None
    """Describe the search network of this space instead."""
    method: str = "darts"
    """Method whose search network is described; that of pc-darts has partial channels."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """How the search network begins."""
    variant: Literal["cifar", "imagenet", "nasbench201"] | None = None
    """Stem and head of the genotype's network."""
    channels: Width | None = None
    """Channels of the first cells (genotype: cifar 36, imagenet 48, nasbench201 16; supernet 16)."""
    layers: Few | None = None
    """Cells (genotype: cifar 20, imagenet 14, nasbench201 17; supernet 8, nasbench201 17)."""
    classes: Width | None = None
    """Classes (cifar 10, imagenet 1000)."""
    image_size: Width | None = None
    """Pixels a side of the images (cifar 32, imagenet 224)."""
    in_channels: Width = 3
    """Channels of the images."""
    memory: bool = False
    """Estimate what a first-order step of the supernet takes, for every value of the search's --memory."""
    batch: Width = 64
    """Images per step of it."""
    json: bool = False
    """Print JSON."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Print the description."""
        from fastdarts.engine.validation import validate
        from fastdarts.registry import find_method
        from fastdarts.report.describe import describe_genotype, describe_stages, describe_supernet, describe_text
        from fastdarts.runs.checks import check_setting
        from fastdarts.spaces import find_image_space, parse_architecture
        from fastdarts.tasks.images.settings import RECIPES, network_options
        from fastdarts.tasks.settings import SupernetConfig, resolve

        if (self.supernet or self.space is not None) == (self.genotype is not None):
            raise FastdartsError("describe needs either --genotype or --supernet or --space: give one of them")
        for name, hint in get_type_hints(Describe, include_extras=True).items():
            check_setting(name, getattr(self, name), hint)
        if self.genotype is not None and (self.method, self.stem) != ("darts", "cifar"):
            raise FastdartsError("--method and --stem go with --supernet or --space: a genotype has neither")
        if self.genotype is None:
            named = {} if self.space is None else {"space": self.space}
            if not issubclass(find_method(self.method).settings, SupernetConfig):
                raise FastdartsError(f"--method is {self.method}, which has no search network: name another one")
            space = find_image_space(named.get("space", SearchConfig.space))
            settings = SearchConfig(method=self.method, stem=self.stem, **named)
            validate(settings)
            layers = resolve(settings).layers
            published = (settings.channels, layers, *((1000, 224) if self.stem == "imagenet" else (10, 32)))
        else:
            space, genotype = parse_architecture(self.genotype)
            variant = space.check_variant(self.variant)
            images = (1000, 224) if variant == "imagenet" else (10, 32)
            published = (RECIPES[variant]["channels"], RECIPES[variant]["layers"], *images)
        asked = (self.channels, self.layers, self.classes, self.image_size)
        shape = [a if a is not None else p for a, p in zip(asked, published, strict=True)]
        if self.memory and self.genotype is not None:
            raise FastdartsError("--memory is for supernets: use it with --supernet or --space")
        if self.genotype is None:
            options = network_options(resolve(settings))
            facts = describe_supernet(*shape, self.in_channels, space, **options)
            stages = resolve(replace(settings, layers=shape[1])).build(space).stages.all()
            if len(stages) > 1:
                facts["stages"] = describe_stages(stages, *shape[:3], self.in_channels, **options)
            if self.memory:
                config = replace(settings, channels=shape[0], layers=shape[1], batch_size=self.batch)
                facts |= {"batch": self.batch, "memory": self._memory(config, *shape[2:])}
        else:
            facts = describe_genotype(genotype, *shape, self.in_channels, variant, space=space)
        print(json.dumps(facts, indent=2) if self.json else describe_text(facts))

    def _memory(self, config: SearchConfig, classes: int, size: int) -> dict[str, int]:
        from fastdarts.engine.memory import MODES
        from fastdarts.engine.search import step_memory
        from fastdarts.tasks.images.task import ImageProblem
        from fastdarts.tasks.settings import resolve

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        images = ImageProblem.of_shape(classes, self.in_channels, (size, size))
        return {m: step_memory(resolve(replace(config, memory=m)), images, device).peak for m in MODES}


@dataclass(frozen=True)
class Methods:
    """List the methods, or the settings of one."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """The method; without it all are listed."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that register methods."""
    json: bool = False
    """JSON instead of a table: a list of objects with name, paper, settings and needs."""

    def run(self) -> None:
        """Print the list."""
        from fastdarts.cli.listing import all_methods, method_facts
        from fastdarts.registry import find_method

        facts = all_methods() if self.name is None else [method_facts(find_method(self.name))]
        if self.json:
            print(json.dumps(facts, indent=2, default=str))
        elif self.name is None:
            for method in facts:
                print(f"{method['name']:14} {method['paper']:36} {method['summary']}")
        else:
            (method,) = facts
            print(f"{method['summary']}\n{method['paper']}")
            if method["needs"]:
                print(f"needs a space with {', '.join(method['needs'])}")
            for name, values in method["settings"].items():
                print(f"  {name:22} {values['default']}")


@dataclass(frozen=True)
class Spaces:
    """List the search spaces."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add spaces."""
    json: bool = False
    """JSON instead of a table: a list of objects."""

    def run(self) -> None:
        """Print the list."""
        from fastdarts.cli.listing import all_spaces

        facts = all_spaces()
        if self.json:
            print(json.dumps(facts, indent=2))
            return
        for space in facts:
            rows = [row for names in space["candidates"].values() for row in names]
            ops = ", ".join(sorted({op for row in rows for op in ([row] if isinstance(row, str) else row)}))
            count = space["architectures"]
            print(f"{space['name']:12} {f'{count:,}' if count < 1e15 else f'{count:.4g}'} architectures of {ops}")


@dataclass(frozen=True)
class Derive:
    """Derive the genotype of alphas that you have, as a method would at the end of its search."""

    alphas: Path
    """File of the alphas: JSON or .pt with one table per kind of cell, or the checkpoint of a search."""
    method: str = "darts"
    """Method whose relaxation and rule count."""
    space: str | None = None
    """Space of the alphas (that of the method: darts)."""
    set: tuple[str, ...] = ()
    """Settings of the method, each NAME=VALUE, such as threshold=0.9 (the published ones)."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that register methods or spaces."""
    json: bool = False
    """JSON with the strengths too."""

    def run(self) -> None:
        """Print the genotype."""
        from fastdarts.engine.derive import derive, read_alphas, read_settings
        from fastdarts.registry import find_method
        from fastdarts.spaces import find_space

        space = find_method(self.method).settings().space if self.space is None else self.space
        found = derive(self.method, space, read_alphas(self.alphas, find_space(space)), read_settings(self.set))
        print(json.dumps(found, indent=1) if self.json else f"genotype {json.dumps(found['genotype'])}")


@dataclass(frozen=True)
class Info:
    """Say what runs here: versions, and for each operation and device the implementation and why."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.functional import implementations, native
        from fastdarts.runs.writer import environment

        facts = {
            "environment": {k: v for k, v in environment().items() if k not in ("command", "started")},
            "native": native(),
            "implementations": [row._asdict() for row in implementations()],
        }
        if self.json:
            print(json.dumps(facts, indent=2))
            return
        for name, value in (facts["environment"] | {f"native {k}": v for k, v in facts["native"].items()}).items():
            print(f"{name:20} {value}")
        for row in facts["implementations"]:
            mark = "yes" if row["available"] else "no"
            print(f"{row['op']:20} {row['device']:5} {row['name']:10} {mark:4} {row['reason']}")


@dataclass(frozen=True)
class Bench:
    """Time fastdarts beside the public DARTS code on this machine, once their results agree; or count its traffic."""

    suite: tuple[
        Literal["ops", "mixed-op", "pc-darts", "step", "partial", "nasbench201", "flat", "batch", "rnn"], ...
    ] = ("mixed-op", "step")
    """What to time: single candidates, whole mixed operations, those of PC-DARTS, steps of a search, partial mixed
    operations and a step of PC-DARTS, a step in NAS-Bench-201, flat updates, the largest batch of a step that fits into
    a budget of memory, the recurrent cell and steps of its search."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where: on a GPU, mixed operations are also replayed as CUDA graphs."""
    threads: Count | None = None
    """CPU threads."""
    batch: tuple[int, ...] = ()
    """Images per call, one or several numbers (64; pc-darts, partial and rnn 256; step and nasbench201 8, published are
    64)."""
    seconds: float = 5.0
    """Time for each case; every side gets three rounds at least."""
    compile: bool = False
    """Time torch.compile of the public code too: about a minute per case to compile, several for a step."""
    traffic: bool = False
    """Count a GPU's launches and bytes instead, and predict times from them; needs no GPU."""
    default_malloc: bool = False
    """Leave malloc alone: fresh buffers then page-fault at every call, as they do where nobody set it up."""
    budget: tuple[str, ...] = ("1GiB",)
    """What a step may take (suite batch), one or several amounts; every one takes minutes."""
    json: Path | None = None
    """Write everything measured to this file."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.bench.run import bench

        bench(**vars(self))


Command = Search | Project | Evaluate | Study | Report | Describe | Derive | Methods | Spaces | Info | Bench
