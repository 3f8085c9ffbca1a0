"""What the launches of mixed_op move and compute, counted from its arguments; see call.py."""

import functools

from fastdarts.kernels.mixed_op.call import Traffic, traffic_of
from fastdarts.kernels.mixed_op.contract import WEIGHTS
from fastdarts.kernels.mixed_op.cuda_traffic import CudaCall
from fastdarts.kernels.mixed_op.triton.traffic import TritonCall


def forward(
    kernels, x, base, gain, offset, weights, seeds, candidates, edges, stride, running_mean, running_var, *_
) -> Traffic:
    """Of the op `mixed_op` on these arguments, which need hold no data."""
    call = kernels(x, gain, offset, candidates, stride, running_mean is None)
    return traffic_of(call.forward(len(base)), x.itemsize)


def backward(
    kernels, grad, x, gain, offset, weights, seeds, candidates, stride, z, mean, var, training, eps, images, need_x,
    need_weights, *_,
) -> Traffic:  # fmt: skip
    """Of the op `mixed_op_backward`."""
    call = kernels(x, gain, offset, candidates, stride, training)
    recompute = not z and any(WEIGHTS[kind] for kind in candidates[1::4])
    return traffic_of(call.backward(need_x, need_weights, recompute), x.itemsize)


CALLS = {"triton": TritonCall, "cuda": CudaCall}
TRAFFIC = {
    name: {
        "fastdarts::mixed_op": functools.partial(forward, call),
        "fastdarts::mixed_op_backward": functools.partial(backward, call),
    }
    for name, call in CALLS.items()
}
"""By kernels and op."""
