"""A trained network in a file that other programs read: plain operations, logits only, any number of images."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.runs.settings import expanded
from fastdarts.runs.writer import atomic_write
from fastdarts.trained.folder import KEY, single_file
from fastdarts.trained.model import Model, check_asked

TOLERANCE = 1e-4
"""Largest difference between logits of the file and of the model, as a share of the largest logit, at least of 1."""
SIZES = (5, 1)
"""Batches that a file is checked with."""
Runner = Callable[[Tensor], Tensor]
"""What a file computes: images [N, C, H, W] to logits [N, classes]."""


class Plain(nn.Module):
    """Images to logits: the normalisation, if it is asked for, and the network."""

    def __init__(self, model: Model, normalise: bool):
        super().__init__()
        self.model, self.normalise = model, normalise
        facts, some = model.facts, next(model.parameters())
        for name, numbers in (("mean", facts.mean), ("std", facts.std)):
            self.register_buffer(name, some.new_tensor(numbers).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std if self.normalise else images
        return self.model(x)


@dataclass(frozen=True)
class Exported:
    """A file that :func:`export` wrote, and the largest difference of its logits from those of the model."""

    path: Path
    difference: float


@dataclass(frozen=True)
class Format:
    """A kind of file.

    write: gives the bytes of a file for a model, given the network with or without normalisation.
    read: gives what the bytes of a file compute.
    packages: what must be installed.
    normalises: whether the file can hold the normalisation.
    """

    write: Callable[[Model, Plain], bytes]
    read: Callable[[bytes, Model], Runner]
    packages: tuple[str, ...] = ()
    normalises: bool = True


def export(model: Model, format: str, output: str | Path, *, normalise: bool = False) -> Exported:
    """Write the network of ``model`` to the file ``output``, checked against the model, atomically.

    Args:
        format: ``onnx`` (ONNX, for onnxruntime and others), ``pt2`` (``torch.export.load`` runs it) or ``safetensors``
            (weights with model.json in the header, for :func:`fastdarts.load`).
        normalise: let the file normalise its input. It then takes pixels in 0..1, else images that are normalised.

    The files ``onnx`` and ``pt2`` take float images [N, C, H, W] for any N, of the size that the network was trained
    on. They give what the model gives, logits [N, classes] or numbers. They hold operations of PyTorch or ONNX only,
    and run without fastdarts.

    Raises :class:`fastdarts.errors.FastdartsError` before any work if a package is missing, and without a file if the
    network cannot be exported or the file computes something else.

    >>> export(fastdarts.load("runs/digits"), "onnx", "digits.onnx", normalise=True)  # doctest: +SKIP
    """
    kind, output = check_export(format, output, normalise)
    check_asked(model.facts)
    model = copy.deepcopy(model).cpu().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # running statistics share memory after training, which those of files cannot
    with torch.no_grad():
        _check_repeats(model)
        data = kind.write(model, Plain(model, normalise).eval())
        difference = _difference(kind.read(data, model), model, normalise)
    if not difference <= max(TOLERANCE, 8 * _rounding(model)):
        raise FastdartsError(
            f"the {format} file computes logits that differ by {difference:.2g} from those of the model, so it was not "
            "written: use another format, and report this"
        )
    atomic_write(output, data)
    return Exported(output, difference)


def check_export(format: str, output: str | Path, normalise: bool) -> tuple[Format, Path]:
    """What :func:`export` checks of its arguments; they are checked without a model, so before any work."""
    kind, output = find_format(format), expanded(output)
    if normalise and not kind.normalises:
        raise FastdartsError(f"format {format} holds weights and no operations: leave out --normalise")
    if not output.parent.is_dir() or output.is_dir():
        raise FastdartsError(f"--output is {output}: expected a file in a folder that exists")
    return kind, output


def find_format(name: str) -> Format:
    """The format of this name; raises :class:`FastdartsError` if there is none, or if a package for it is missing."""
    if name not in FORMATS:
        raise FastdartsError(f"--format is {name!r}: expected one of {', '.join(FORMATS)}")
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise FastdartsError(
            f"format {name} needs the package {missing[0]}, which is not installed: install the extra by "
            "`pip install 'fastdarts[export]'`, or use format pt2"
        )
    return FORMATS[name]


def _rounding(model: Model) -> float:
    """The rounding of a number near 1 in the model's type; 0 for float32 and wider, for which TOLERANCE is enough."""
    dtype = next(model.parameters()).dtype
    return torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0


def _check_repeats(model: Model) -> None:
    """Raise :class:`FastdartsError` if the logits of the same image differ from call to call."""
    image = torch.zeros(1, *model.facts.shape).to(next(model.parameters()))
    if not torch.equal(model(image), model(image)):
        raise FastdartsError(
            "the network gives other logits at every call, as with the operation noise, so no file can be checked: "
            "train a genotype without it"
        )


def _difference(runner: Runner, model: Model, normalise: bool) -> float:
    """How far the logits of a file are from those of the model, as a share of the largest logit, at least of 1."""
    facts, some = model.facts, next(model.parameters())
    generator, found = torch.Generator().manual_seed(0), 0.0
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (facts.mean, facts.std))
    for size in SIZES:
        pixels = torch.rand(size, *facts.shape, generator=generator)
        normalised = ((pixels - mean) / std).to(some.dtype)
        expected = model(normalised).float()
        logits = runner(pixels.to(normalised) if normalise else normalised).float()
        if logits.shape != expected.shape:
            return float("inf")
        found = max(found, ((logits - expected).abs().max() / expected.abs().max().clamp(min=1)).item())
    return found


def program_of(plain: Plain, model: Model) -> torch.export.ExportedProgram:
    """``plain`` as torch.export records it, for any number of images.

    Raises :class:`FastdartsError` if it has operations that only this package knows.
    """
    example = torch.zeros(2, *model.facts.shape).to(next(model.parameters()))
    batch = {"images": {0: torch.export.Dim("batch")}}
    try:
        program = torch.export.export(plain, (example,), dynamic_shapes=batch)
    except Exception as error:  # torch raises many types, also those of the modules of a plug-in
        reason = " ".join(str(error).split())[:200]
        raise FastdartsError(
            f"torch.export cannot record the network ({type(error).__name__}: {reason}): change its operations, or use "
            "format safetensors"
        ) from error
    targets = (node.target for node in program.graph.nodes if node.op == "call_function")
    own = sorted({str(target) for target in targets if getattr(target, "namespace", "aten") != "aten"})
    if own:
        raise FastdartsError(
            f"the network has the operation {own[0]}, which plain PyTorch does not have: use format safetensors"
        )
    return program


def _write_pt2(model: Model, plain: Plain) -> bytes:
    file = io.BytesIO()
    torch.export.save(program_of(plain, model), file, extra_files={"fastdarts.json": _described(model)})
    return file.getvalue()


def _read_pt2(data: bytes, model: Model) -> Runner:
    return torch.export.load(io.BytesIO(data)).module()


def _write_onnx(model: Model, plain: Plain) -> bytes:
    import onnx

    if next(model.parameters()).dtype is torch.bfloat16:
        raise FastdartsError("the model is in bfloat16, which onnxruntime does not compute: export model.float()")
    names = {"input_names": ["images"], "output_names": ["logits"]}
    with _quiet():
        made = torch.onnx.export(program_of(plain, model), dynamo=True, verbose=False, **names)
    proto = made.model_proto
    onnx.helper.set_model_props(proto, {KEY: _described(model)})
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _read_onnx(data: bytes, model: Model) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        [logits] = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def _write_safetensors(model: Model, plain: Plain) -> bytes:
    return single_file(model.facts, model.network.state_dict())


def _read_safetensors(data: bytes, model: Model) -> Runner:
    from safetensors.torch import load

    with torch.random.fork_rng(devices=[]):
        network = model.facts.network()
    network.load_state_dict(load(data))
    return Plain(Model(model.facts, network.to(next(model.parameters()))), normalise=False).eval()


def _described(model: Model) -> str:
    """model.json, for whoever opens the file."""
    return json.dumps(model.facts.to_dict())


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter of ONNX says nothing of its own steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "pt2": Format(_write_pt2, _read_pt2),
    "safetensors": Format(_write_safetensors, _read_safetensors, normalises=False),
}
