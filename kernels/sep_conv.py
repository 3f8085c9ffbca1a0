"""sep_conv: ReLU, depthwise convolution and 1×1 convolution, the body of a candidate operation, in one pass.

With r = max(x, 0), a depthwise kernel d [C, 1, k, k], a pointwise kernel p [C', C, 1, 1], stride s, dilation δ and
zero padding δ(k − 1)/2:

    t[c, y, x] = Σ_{i,j} d[c, i, j] r[c, s·y + δi − δ(k−1)/2, s·x + δj − δ(k−1)/2]
    z[o, y, x] = Σ_c p[o, c] t[c, y, x]

    dp[o, c] = Σ g[o] t[c]     dt[c] = Σ_o p[o, c] g[o]
    dd[c, i, j] = Σ dt[c] r[c] at that tap     dx = 1[x > 0] · (transposed depthwise convolution of dt)

t is never stored: it is computed strip by strip and again in backward, where x and the two kernels are all that is
kept. The separable convolutions of DARTS: Liu et al. 2019, section 3.1.1; depthwise separable convolution: Chollet
2017 (Xception), section 3.

Shapes: x [N, C, H, W] and z [N, C', ⌈H/s⌉, ⌈W/s⌉], both channels-last, in one dtype with the kernels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels.registry import define, select

LAST = torch.channels_last
KERNELS, STRIDES, DILATIONS = (3, 5, 7), (1, 2), (1, 2)


def _depthwise(r: Tensor, depthwise: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (depthwise.shape[-1] - 1) // 2
    return F.conv2d(r, depthwise, None, stride, padding, dilation, groups=r.shape[1])


def _forward(x: Tensor, depthwise: Tensor, pointwise: Tensor, stride: int, dilation: int) -> Tensor:
    z = F.conv2d(_depthwise(F.relu(x), depthwise, stride, dilation), pointwise)
    return z.contiguous(memory_format=LAST)


def _forward_fake(x, depthwise, pointwise, stride, dilation):
    height, width = ((size - 1) // stride + 1 for size in x.shape[2:])
    return x.new_empty(x.shape[0], pointwise.shape[0], height, width).to(memory_format=LAST)


def _backward(
    grad: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    stride: int,
    dilation: int,
    need_x: bool,
    need_depthwise: bool,
    need_pointwise: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The wanted gradients, an empty tensor for each other; differentiable in grad, x and both kernels."""
    through, none = need_x or need_depthwise, x.new_empty(0)
    r, padding = F.relu(x), dilation * (depthwise.shape[-1] - 1) // 2
    t = _depthwise(r, depthwise, stride, dilation)
    dt, dp, _ = torch.ops.aten.convolution_backward(
        grad, t, pointwise, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [through, need_pointwise, False]
    )
    dx = dd = None
    if through:
        dx, dd, _ = torch.ops.aten.convolution_backward(
            dt, r, depthwise, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], x.shape[1],
            [need_x, need_depthwise, False],
        )  # fmt: skip
    return (
        torch.where(x <= 0, 0, dx).contiguous(memory_format=LAST) if need_x else none,
        dd.contiguous() if need_depthwise else none.clone(),
        dp.contiguous() if need_pointwise else none.clone(),
    )


def _backward_fake(grad, x, depthwise, pointwise, stride, dilation, need_x, need_depthwise, need_pointwise):
    return (
        x.new_empty(x.shape).to(memory_format=LAST) if need_x else x.new_empty(0),
        depthwise.new_empty(depthwise.shape if need_depthwise else 0),
        pointwise.new_empty(pointwise.shape if need_pointwise else 0),
    )


forward_op = define(
    "sep_conv(Tensor x, Tensor depthwise, Tensor pointwise, int stride, int dilation) -> Tensor",
    _forward,
    _forward_fake,
    triton=None,
)
backward_op = define(
    "sep_conv_backward(Tensor grad, Tensor x, Tensor depthwise, Tensor pointwise, int stride, int dilation,"
    " bool need_x, bool need_depthwise, bool need_pointwise)"
    " -> (Tensor grad_x, Tensor grad_depthwise, Tensor grad_pointwise)",
    _backward,
    _backward_fake,
    triton=None,
)


class _SepConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl, stride, dilation, x, depthwise, pointwise):
        device, dtype = x.device.type, x.dtype
        z = select(forward_op, impl, device, dtype)(x, depthwise, pointwise, stride, dilation)
        ctx.run = select(backward_op, impl, device, dtype)
        ctx.stride, ctx.dilation = stride, dilation
        ctx.save_for_backward(x, depthwise, pointwise)
        return z

    @staticmethod
    def backward(ctx, grad):
        needs = ctx.needs_input_grad[3:]
        # create_graph=True: a kernel would be a constant to the second differentiation
        run = _backward if torch.is_grad_enabled() else ctx.run
        grad = grad.contiguous(memory_format=LAST)
        gradients = run(grad, *ctx.saved_tensors, ctx.stride, ctx.dilation, *needs)
        return None, None, None, *(g if need else None for g, need in zip(gradients, needs, strict=True))


def sep_conv(x: Tensor, depthwise: Tensor, pointwise: Tensor, stride: int, dilation: int, impl: str | None) -> Tensor:
    """The differentiable op; fastdarts.functional has validated, x is channels-last and the kernels contiguous."""
    return _SepConv.apply(impl, stride, dilation, x, depthwise, pointwise)
