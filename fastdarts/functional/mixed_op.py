"""The arguments of mixed_op, validated, and its call."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts import kernels
from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import FLOATING, as_list, brief, got, in_format, is_dense
from fastdarts.functional.autocast import autocast_dtype, cast

MEMORY = ("store", "recompute")


class Candidate(NamedTuple):
    """One candidate of `mixed_op`: the edge it is on, its kind, and its convolutions' weights in their order.

    "skip"               no weights; stride 1
    "max_pool"           no weights; 3×3
    "avg_pool"           no weights; 3×3, padding is not counted
    "factorized_reduce"  [C'/2, C, 1, 1] of the even pixels, the same of the odd ones; stride 2
    "dil_conv"           depthwise [C, 1, k, k] and pointwise [C', C, 1, 1], after a ReLU
    "sep_conv"           two such pairs, BatchNorm between; the stride is in the first
    "relu_conv"          [C', C, 1, 1], after a ReLU; stride 1
    "noise"              no weights; standard normal numbers, of its seed, in the shape of the output
    "dropped_skip"       no weights; stride 1; elements are dropped by its seed and limit, the others scaled

    k is 3, 5 or 7. `dilation` is 1 or 2 in "dil_conv" and 1 in all others.
    """

    edge: int
    kind: str
    weights: Sequence[Tensor] = ()
    dilation: int = 1


class MixedOpResult(NamedTuple):
    """Result of `mixed_op`: one output per edge, the statistics to fold into the running ones, and noted kinks."""

    out: list[Tensor]
    mean: Tensor
    var: Tensor
    kinks: list[Tensor]


def mixed_op(
    x: Tensor,
    candidates: Sequence[Candidate],
    gain: Tensor,
    offset: Tensor | None = None,
    *,
    base: Sequence[Tensor] = (),
    edges: int = 1,
    stride: int = 1,
    seeds: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    memory: str = "store",
    partial: int = 1,
    bypass: Tensor | None = None,
    synchronised: bool = False,
    kinks: Sequence[Tensor] = (),
    note: bool = False,
    impl: str | None = None,
) -> MixedOpResult:
    """Compute all mixed operations that leave one state, in one op: convolutions, pools, BatchNorms and weighted sums.

    The output of edge e is ``out_e = base_e + Σ_r (gain_r (z_r − μ_r) / √(σ²_r + eps) + offset_r)`` over its rows r.
    z_r is the raw output of a candidate, and μ_r and σ²_r are its mean and variance. For "skip" a row is
    ``gain_r x + offset_r``. For "noise" it is the same of random numbers. For "dropped_skip" it is the same of
    ``x · m / (1 − p)``, where m is 1 with probability 1 − p, else 0, for every element by itself. A "sep_conv" has two
    rows: its second half reads the first one, its middle row. Gradients flow to x, gain, offset, base and all weights,
    twice if asked (create_graph=True). The statistics get none.

    All tensors are on the device of x and of its dtype. The tables [R, C'] and bypass are float32 if that is bfloat16
    or float16. Under torch.autocast x, base and weights are cast to its dtype, tables are not. No gradient changes its
    type.

    Args:
        x: [N, C, H, W], floating point. Channels-last is native; any other format is copied to it.
        candidates: At least one per edge, sorted by edge. All are computed whatever the gain; a list without those of
            weight 0 saves their time.
        gain: [R, C'], one row per candidate and two per "sep_conv", in their order: mixing weight times BatchNorm
            weight. A middle row has the BatchNorm weight alone. C' may differ from C only where all candidates are
            "factorized_reduce", "dil_conv" or "relu_conv".
        offset: None or [R, C'], the same of the BatchNorm biases.
        base: Of the first edges, of none or of all of them one [N, C', H', W'] each, to which its candidates are added.
        edges: Number of edges.
        stride: 1 or 2; H' = ⌈H/stride⌉.
        seeds: None, or int64 in the order of the candidates: of every "noise" its seed, of every "dropped_skip" its
            seed and its limit, p 2³² rounded. The same seed is the same noise, and drops the same elements.
        running: None normalises by the statistics of the batch (training). A pair (mean, var), each [R, C'], normalises
            by these (evaluation). Rows of "skip", "noise" and "dropped_skip" are not read.
        eps: Added to the variances.
        memory: "store" keeps the raw outputs of the convolutions for backward, "recompute" computes them again.
        partial: K > 1 lets only the first C' = C/K channels of x into the candidates, which keep that number. The
            others bypass them; at stride 2 through a maximum over 2×2 pixels, where H and W must be even. A channel
            shuffle spreads both. So out and base have C channels, with the candidates' sum in every K-th, from 0 on.
        bypass: [E], with partial > 1: the weight of what bypasses the candidates of each edge.
        synchronised: Normalise by the statistics of the batch over all processes of torch.distributed. Each of them has
            a part of the batch (sizes may differ) and makes the same call. Gradients are right if the losses of all
            processes add up to one loss.
        kinks: Nothing, or what a call with the same shapes and candidates has noted. ReLUs and max pools then decide as
            they did there, so that the function is smooth. Not with partial > 1 at stride 2.
        note: Also return the kinks of this call, uint8 tensors for nothing but that.
        impl: "native", "cuda", "triton" or "reference" insists on an implementation. None takes the fastest that can
            run.

    Returns:
        ``out``, ``mean``, ``var`` and ``kinks``. out has one [N, C', H', W'] per edge, in channels-last. mean and var
            [R, C'] are the statistics of the batch, var unbiased, or a copy of ``running``. They are 0 and 1 for
            "skip", "noise" and "dropped_skip". kinks is empty unless ``note`` asks for them.

    Raises:
        FastdartsError: Arguments do not fit together.
        RuntimeError: ``impl`` cannot run.

    Source: Liu et al. 2019 (DARTS), equation 2 and section 3.1.1; Ioffe and Szegedy 2015, section 3; partial channels,
    Xu et al. 2020 (PC-DARTS), section 3.2.

    Examples:
        >>> import torch
        >>> from fastdarts.functional import Candidate, mixed_op
        >>> candidates = [Candidate(0, "skip"), Candidate(0, "relu_conv", [torch.randn(16, 16, 1, 1)])]
        >>> weights = torch.tensor([0.3, 0.7])
        >>> result = mixed_op(torch.randn(4, 16, 8, 8), candidates, weights[:, None].expand(2, 16))
        >>> [out.shape for out in result.out]
        [torch.Size([4, 16, 8, 8])]
    """
    if impl not in (None, *kernels.MIXED_OP_IMPLEMENTATIONS):
        raise FastdartsError(f"impl is {impl!r}: choose one of {', '.join(kernels.MIXED_OP_IMPLEMENTATIONS)} or None.")
    if type(memory) is not str or memory not in MEMORY:
        raise FastdartsError(f"memory is {brief(memory)}: choose one of {', '.join(MEMORY)}.")
    if not is_dense(x):
        raise FastdartsError(f"x must be a tensor [N, C, H, W], got {got(x)}.")
    if x.dim() != 4 or not x.numel() or x.dtype not in FLOATING:
        raise FastdartsError(
            f"x must be a non-empty, floating point [N, C, H, W] tensor, got {[*x.shape]} in {x.dtype}."
        )
    if type(stride) is not int or stride not in kernels.STRIDES:
        raise FastdartsError(f"stride must be 1 or 2, got {brief(stride)}.")
    if type(edges) is not int:
        raise FastdartsError(f"edges must be a whole number, got {brief(edges)}.")
    if type(note) is not bool:
        raise FastdartsError(f"note must be true or false, got {brief(note)}.")
    if not is_dense(gain) or gain.dim() != 2:
        raise FastdartsError(f"gain must be a tensor [R, C'], got {got(gain)}.")
    candidates, kinks = as_list("candidates", candidates), as_list("kinks", kinks)
    check_eps(eps)
    dtype = autocast_dtype(x)
    if dtype not in (None, x.dtype):
        x = x.to(dtype, memory_format=torch.channels_last)
    (n, channels, height, width), c_out = x.shape, gain.shape[1]
    _check_partial(partial, bypass, channels, c_out, (height, width), stride)
    c_in = channels // partial
    table, weights = _flatten(candidates, edges, stride, c_in, c_out)
    rows = len(candidates) + table[1::4].count(kernels.SEP_CONV)
    size = (n, c_out * partial, *_halved(height, width, stride))
    images, count = 0, n * size[2] * size[3]
    if synchronised and running is None and kernels.world() > 1:
        images = int(kernels.add_up(torch.tensor(n)))
        count = images * size[2] * size[3]
    if running is None and count == 1 and not kernels.PLAIN.issuperset(table[1::4]):
        raise FastdartsError(
            f"Batch statistics need more than one value per channel, got x of shape {[*x.shape]} at stride {stride}: "
            "use a larger batch or pass running statistics."
        )
    if running is not None and (
        not isinstance(running, tuple | list) or len(running) != 2 or not all(isinstance(t, Tensor) for t in running)
    ):
        raise FastdartsError("running must be None or a pair of tensors (mean, var).")
    if not isinstance(base, Sequence):
        raise FastdartsError(f"base must be a sequence of tensors, got {type(base).__name__}.")
    if len(base) > edges or (bypass is not None and len(base) not in (0, edges)):
        raise FastdartsError(f"base must hold at most one tensor per edge, got {len(base)} for {edges} edges.")
    tables = {"gain": gain, "offset": offset} | dict(
        zip(("running mean", "running var"), running or (None, None), strict=True)
    )
    if dtype is not None:
        weights, base = cast(weights, dtype), cast(base, dtype)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    for name, tensor in tables.items():
        if tensor is not None:
            _check_like(x, name, tensor, (rows, c_out), wide)
    if bypass is not None:
        _check_like(x, "bypass", bypass, (edges,), wide)
    for e, tensor in enumerate(base):
        _check_like(x, f"base {e}", tensor, size)
    for k, w in enumerate(weights):
        if w.dtype is not x.dtype or w.device != x.device or w.layout is not torch.strided:
            _check_like(x, f"weight {k}", w, w.shape)
    if kinks or note:
        _check_kinks(kinks, note, x, c_in, c_out, table, stride, partial)
    numbers = sum(kernels.SEEDS[kind] for kind in table[1::4])
    if seeds is not None or numbers:
        _check_seeds(seeds, numbers, x)
    call = kernels.Call(tuple(table), edges, stride, eps, images, memory == "store", impl, c_out, len(weights))
    return run(call, x, base, gain, offset, weights, seeds, running, bypass, kinks, note)


class MixedOpPlan(NamedTuple):
    """A call of `mixed_op` but for its tensors, validated once by `plan`."""

    call: kernels.Call
    shapes: list[torch.Size]  # of the weights
    inputs: int  # channels of x
    rows: int

    def __call__(
        self,
        x: Tensor,
        base: Sequence[Tensor],
        gain: Tensor,
        offset: Tensor | None,
        weights: Sequence[Tensor],
        seeds: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        bypass: Tensor | None,
        places: Tensor | None,
    ) -> MixedOpResult | None:
        """What `mixed_op` gives; None for feature maps or weights that do not fit, of which it says what is wrong.

        x is 4-dimensional, and the other tensors fit to it. With places, int64 [R], gain are mixing weights [K]: that
        of a row is at its place among them, K being that of 1.
        """
        dtype = autocast_dtype(x)
        if dtype is not None:
            x = x if x.dtype is dtype else x.to(dtype, memory_format=torch.channels_last)
            weights, base = cast(weights, dtype), cast(base, dtype)
        call, (n, channels, height, width), dtype = self.call, x.shape, x.dtype
        size = (n, gain.shape[1] if places is None else call.channels, *_halved(height, width, call.stride))
        if bypass is not None:
            size = (n, channels, *size[2:])
        count = len(self.shapes)
        if (
            channels != self.inputs
            or n * size[2] * size[3] == 1
            or [*map(_dtype, weights)] != [dtype] * count
            or [*map(Tensor.get_device, weights)] != [x.get_device()] * count
            or [*map(_shape, weights)] != self.shapes
            or any(b.shape != size or b.dtype is not dtype or b.device != x.device for b in base)
        ):
            return None
        return run(call, x, base, gain, offset, weights, seeds, running, bypass, places=places)


_dtype, _shape = Tensor.dtype.__get__, Tensor.shape.__get__


def plan(
    candidates: Sequence[Candidate], edges: int, stride: int, inputs: int, outputs: int, partial: int, eps: float,
    memory: str,
) -> MixedOpPlan:  # fmt: skip
    """What of the arguments of `mixed_op` is no tensor; x has `inputs` channels, gain `outputs`. No kinks, and
    normalised by this process's part of a batch."""
    table, weights = _flatten(candidates, edges, stride, inputs // partial, outputs)
    check_eps(eps)
    call = kernels.Call(tuple(table), edges, stride, eps, 0, memory == "store", None, outputs, len(weights))
    rows = len(candidates) + table[1::4].count(kernels.SEP_CONV)
    return MixedOpPlan(call, [w.shape for w in weights], inputs, rows)


def run(
    call: kernels.Call,
    x: Tensor,
    base: Sequence[Tensor],
    gain: Tensor,
    offset: Tensor | None,
    weights: Sequence[Tensor],
    seeds: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    bypass: Tensor | None,
    kinks: Sequence[Tensor] = (),
    note: bool = False,
    places: Tensor | None = None,
) -> MixedOpResult:
    """The op on arguments that are known to fit, in any memory format."""
    last = torch.channels_last
    return MixedOpResult(
        *kernels.mixed_op(
            call,
            in_format(x, last),
            [in_format(tensor, last) for tensor in base],
            gain,
            offset,
            [w.contiguous() for w in weights],
            None if seeds is None else seeds.contiguous(),
            running,
            bypass,
            [bits.contiguous() for bits in kinks],
            note,
            places,
        )
    )


def noise_seeds(count: int, device: torch.device) -> Tensor:
    """int64 [count], any 64 bits, drawn from the default generator of `device`; of several processes with the same
    random state each has seeds of its own."""
    limits = torch.iinfo(torch.int64)
    seeds = torch.randint(limits.min, limits.max, (count,), device=device)
    return seeds + kernels.rank() if kernels.rank() else seeds


def _check_seeds(seeds: Tensor | None, numbers: int, x: Tensor) -> None:
    """Their values are nobody's business here: to look at them would make a GPU wait."""
    each = "one per noise and two per dropped_skip"
    if not is_dense(seeds):
        raise FastdartsError(f"seeds must be an int64 tensor [{numbers}], {each}, got {got(seeds)}.")
    if seeds.shape != (numbers,) or seeds.dtype is not torch.int64 or seeds.device != x.device or not numbers:
        raise FastdartsError(
            f"seeds must be int64 [{numbers}] on {x.device}, {each}, None without any, "
            f"got {seeds.dtype} {[*seeds.shape]} on {seeds.device}."
        )


def _check_kinks(
    kinks: Sequence[Tensor], note: bool, x: Tensor, c_in: int, c_out: int, table: list[int], stride: int, partial: int
) -> None:
    if kinks and note:
        raise FastdartsError("got kinks and note=True: a call keeps kinks or notes them, leave one out.")
    if partial > 1 and stride == 2:
        raise FastdartsError(
            "What bypasses partial channels at stride 2 takes maxima of its own: kinks are kept or noted with partial "
            "= 1 or at stride 1."
        )
    if not kinks:
        return
    shapes = kernels.kink_sizes(x[:, :c_in], c_out, table, stride)
    for bits in kinks:
        if not is_dense(bits):
            raise FastdartsError(f"kinks must be uint8 tensors, as noted by another call, got {got(bits)}.")
    found = [tuple(bits.shape) for bits in kinks]
    if found != shapes or any(bits.dtype is not torch.uint8 or bits.device != x.device for bits in kinks):
        raise FastdartsError(
            f"kinks must be uint8 {[[*shape] for shape in shapes]} on {x.device}, as noted by a call with the same "
            f"shapes and candidates, got {[(str(bits.dtype), [*bits.shape], str(bits.device)) for bits in kinks]}."
        )


def _check_partial(
    partial: int, bypass: Tensor | None, channels: int, c_out: int, size: tuple[int, int], stride: int
) -> None:
    if type(partial) is not int or partial < 1 or channels % partial:
        raise FastdartsError(f"partial must be a divisor of the {channels} channels of x, got {brief(partial)}.")
    if (partial > 1) != (bypass is not None):
        raise FastdartsError(
            f"bypass goes with partial > 1, got partial {partial} and {'no ' * (bypass is None)}bypass: "
            "give both or none."
        )
    if partial > 1 and c_out * partial != channels:
        raise FastdartsError(
            f"gain must have {channels // partial} channels, 1/{partial} of those of x, got {c_out}: with partial > 1 "
            "every candidate keeps its channels."
        )
    if partial > 1 and stride == 2 and (size[0] % 2 or size[1] % 2):
        raise FastdartsError(
            f"What bypasses the candidates at stride 2 needs an even height and width, got {size[0]}×{size[1]}."
        )


def _halved(height: int, width: int, stride: int) -> tuple[int, int]:
    """The size of the outputs."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _flatten(candidates: Sequence[Candidate], edges: int, stride: int, c_in: int, c_out: int) -> tuple:
    """The candidates as the op takes them, four integers each, and all their weights."""
    table, weights, expected = [], [], 0
    for candidate in candidates:
        try:
            edge, kind, own, dilation = candidate
            given = [w.shape for w in own]
            kernel = given[0][-1] if given and given[0] else 0
            fits = type(edge) is type(dilation) is int and type(kind) is str and type(own) in (list, tuple)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            fits = False
        if not fits:
            raise FastdartsError(
                "A candidate must be Candidate(edge: int, kind: str, weights: list of tensors, dilation: int), got "
                f"{brief(candidate)}."
            )
        if edge not in (expected, expected - 1) or edge < 0:
            break
        expected = edge + 1
        number, size, shapes = _geometry(kind, kernel, dilation, stride, c_in, c_out)
        if given != shapes:
            raise FastdartsError(
                f"The weights of {kind!r} from {c_in} to {c_out} channels must be {[[*shape] for shape in shapes]}, "
                f"got {[[*w.shape] for w in own]}."
            )
        table += (edge, number, size, dilation if size else 0)
        weights += own
    else:
        if expected == edges > 0:
            return table, weights
    raise FastdartsError(
        f"Candidates must be sorted by edge, one or more for each of the {edges} edges from 0 on, got them for edges "
        f"{[candidate.edge for candidate in candidates]}."
    )


@functools.lru_cache(maxsize=1024)
def _geometry(kind: str, kernel: int, dilation: int, stride: int, c_in: int, c_out: int) -> tuple:
    """(number of the kind, kernel size, shapes of the weights), or the reason why there is no such candidate."""
    if kind not in kernels.KINDS:
        raise FastdartsError(f"A candidate is of kind {kind!r}: choose one of {', '.join(kernels.KINDS)}.")
    needed = {"skip": 1, "dropped_skip": 1, "relu_conv": 1, "factorized_reduce": 2}.get(kind, stride)
    if stride != needed:
        raise FastdartsError(f"{kind!r} exists at stride {needed} only, got stride {stride}.")
    if dilation not in (kernels.DILATIONS if kind == "dil_conv" else (1,)):
        raise FastdartsError(f"The dilation of {kind!r} must be 1{' or 2' * (kind == 'dil_conv')}, got {dilation!r}.")
    if c_in != c_out and kind not in ("factorized_reduce", "dil_conv", "relu_conv"):
        raise FastdartsError(f"{kind!r} keeps the channels of x, got x of {c_in} and gain of {c_out} channels.")
    if kind == "factorized_reduce":
        if c_out % 2:
            raise FastdartsError(f"{kind!r} needs an even number of output channels, got gain of {c_out}.")
        return kernels.KINDS.index(kind), 1, [(c_out // 2, c_in, 1, 1)] * 2
    if kind in ("dil_conv", "sep_conv"):
        if kernel not in kernels.KERNELS:
            raise FastdartsError(
                f"The first weight of {kind!r} must be [C, 1, k, k] with k = 3, 5 or 7, got k = {kernel}."
            )
        pair = [(c_in, 1, kernel, kernel), (c_out, c_in, 1, 1)]
        return kernels.KINDS.index(kind), kernel, pair * (2 if kind == "sep_conv" else 1)
    if kind == "relu_conv":
        return kernels.KINDS.index(kind), 1, [(c_out, c_in, 1, 1)]
    number = kernels.KINDS.index(kind)
    return number, 0 if number in kernels.PLAIN else 3, []


def check_eps(eps: float) -> None:
    if not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
        raise FastdartsError(f"eps must be a finite number, at least 0, got {brief(eps)}.")


def _check_like(x: Tensor, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    dtype = dtype or x.dtype
    if not is_dense(tensor):
        raise FastdartsError(f"{name} must be a tensor, got {got(tensor)}.")
    if tensor.shape != shape:
        raise FastdartsError(f"{name} must be {[*shape]}, got {[*tensor.shape]}.")
    if tensor.dtype is not dtype or tensor.device != x.device:
        wanted = "" if dtype is x.dtype else f" and {name} must be {dtype}"
        raise FastdartsError(
            f"{name} is {tensor.dtype} on {tensor.device} but x is {x.dtype} on {x.device}{wanted}: "
            "convert one of them."
        )


def why_plain(device: torch.device, dtype: torch.dtype) -> str:
    """Why `mixed_op` runs in plain PyTorch on `device` in `dtype`; "" if a kernel does.

    Raises FastdartsError if it does and FASTDARTS_STRICT=1 forbids it.
    """
    reason = kernels.why_no_kernel(device.type, dtype)
    if reason and kernels.strict():
        raise FastdartsError(f"FASTDARTS_STRICT=1 forbids plain PyTorch, but {reason}: choose another type or device")
    return reason


def why_no_kinks(device: torch.device) -> str:
    """Why `mixed_op` notes and keeps kinks in plain PyTorch on `device`; "" if a kernel does.

    Raises FastdartsError if it does and FASTDARTS_STRICT=1 forbids it.
    """
    reason = kernels.why_no_kinks(device.type)
    if reason and kernels.strict():
        raise FastdartsError(f"FASTDARTS_STRICT=1 forbids plain PyTorch, but {reason}: do not keep kinks")
    return reason


def has_kernel(x: Tensor) -> bool:
    """Whether a kernel of `mixed_op`, not its reference, takes ``x``: its device, and its dtype or that of autocast."""
    return not kernels.why_no_kernel(x.device.type, autocast_dtype(x) or x.dtype)
