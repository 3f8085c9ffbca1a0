"""recurrent: the recurrent cell of the supernet over a sequence, every candidate of every edge, in one op.

With D the dropout mask and [c | n] the halves of a row, at time step t from the last output h = h_{t−1}:

    [c | n] = x_t + (D h) W_0           u_0 = h + σ(c) (tanh n − h)
    [c_ij | n_ij] = (D s_j) W_i         u_i = Σ_{j<i} P_ij s_j + σ(c_ij) (m_ij − P_ij s_j)     i = 1 … N
    m_ij = Σ_f p_ijf f(n_ij)            P_ij = Σ_f p_ijf
    s_i = (u_i − μ_i) r_i               r_i = 1/√(σ²_i + eps), statistics of the B streams per column
    h_t = Σ_{i≥1} s_i / N

the f being tanh, max(0, ·), σ and the identity. Backward, with g_i the gradient of s_i and all means over the streams:

    du_i = r_i (g_i − mean g_i − s_i mean g_i s_i)
    dc_ij = du_i (m_ij − P_ij s_j) σ(c_ij) σ(−c_ij)     dn_ij = du_i σ(c_ij) Σ_f p_ijf f'(n_ij)
    g_j = dh_t/N + Σ_{i>j} P_ij σ(−c_ij) du_i + D ([dc_ij | dn_ij] W_iᵀ)
    dW_i = Σ_j (D s_j)ᵀ [dc_ij | dn_ij]                 dp_ijf = Σ du_i (σ(−c_ij) s_j + σ(c_ij) f(n_ij))

The cell: Liu et al. 2019 (DARTS), section 3.1.2 and its public code; batch normalisation: Ioffe and Szegedy 2015,
section 3.

Shapes: inputs x [T, B, 2H], what the tokens give to state 0; hidden, h_0, [B, H]; weights W_0 … W_N, each [H, 2H];
mask D [B, H] or none; mixing p [E, 4], row i(i−1)/2 + j of edge (i, j); out h_1 … h_T [T, B, H]; mean and var
[T, N+1, H], var the unbiased estimate, as running statistics want it. Mixing weights and statistics are in float32
where x is of half precision. Stored for backward if `store`: the states [T, N+1, B, H] and the gates [T, E+1, B, 2H],
those of state 0 first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.kernels.needs_grad import needs_grad
from fastdarts.kernels.registry import define, select

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _forward(
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    mixing: Tensor,
    eps: float,
    store: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, wide = hidden.dtype, mixing.dtype
    out, means, variances, all_states, all_gates = [], [], [], [], []

    def normalised(u: Tensor) -> Tensor:
        mean, var = u.new_zeros(u.shape[1]), u.new_ones(u.shape[1])
        # momentum 1 leaves the statistics of this very batch in mean and var
        s = F.batch_norm(u, mean, var, training=True, momentum=1.0, eps=eps)
        means.append(mean)
        variances.append(var)
        return s.to(dtype)

    def dropped(states: Tensor) -> Tensor:
        return states if mask is None else states * mask

    for x in inputs.unbind():
        gates = [(x + dropped(hidden) @ weights[0]).unsqueeze(0)]
        (c, n), last = gates[0][0].to(wide).chunk(2, -1), hidden.to(wide)
        states, first = normalised(last + c.sigmoid() * (n.tanh() - last)).unsqueeze(0), 0
        for node, weight in enumerate(weights[1:], start=1):
            p = mixing[first : first + node].view(node, 4, 1, 1)
            gates.append(dropped(states) @ weight)
            c, n = gates[-1].to(wide).chunk(2, -1)
            stay = p.sum(1) * states.to(wide)
            mixed = p[:, 0] * n.tanh() + p[:, 1] * n.relu() + p[:, 2] * n.sigmoid() + p[:, 3] * n
            u = (stay + c.sigmoid() * (mixed - stay)).sum(0)
            states = torch.cat((states, normalised(u).unsqueeze(0)))
            first += node
        hidden = states[1:].to(wide).mean(0).to(dtype)
        out.append(hidden)
        if store:
            all_states.append(states)
            all_gates.append(torch.cat(gates))
    nothing = hidden.new_empty(0)
    kept = (torch.stack(all_states), torch.stack(all_gates)) if store else (nothing, nothing.clone())
    size = len(inputs), len(weights), -1
    return torch.stack(out), torch.stack(means).view(size), torch.stack(variances).view(size), *kept


def _forward_fake(inputs, hidden, weights, mask, mixing, eps, store):
    steps, batch, width = len(inputs), *hidden.shape
    mean = mixing.new_empty(steps, len(weights), width)
    states = (steps, len(weights), batch, width) if store else (0,)
    gates = (steps, len(mixing) + 1, batch, 2 * width) if store else (0,)
    out = hidden.new_empty(steps, batch, width)
    return out, mean, torch.empty_like(mean), hidden.new_empty(states), hidden.new_empty(gates)


def _backward(
    grad: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    mixing: Tensor,
    eps: float,
    out: Tensor,
    var: Tensor,
    states: Tensor,
    gates: Tensor,
    need_inputs: bool,
    need_hidden: bool,
    need_weights: bool,
    need_mixing: bool,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Differentiates the reference of forward, which computes everything again; what is not wanted is empty.

    With create_graph the gradients are differentiable in grad, inputs, hidden, weights and mixing.
    """

    def leaf(tensor: Tensor, need: bool) -> Tensor:
        # a view stops the first differentiation here, and the second goes on through it
        return tensor.view_as(tensor) if create_graph and tensor.requires_grad else tensor.detach().requires_grad_(need)

    with torch.enable_grad():
        inputs, hidden, mixing = leaf(inputs, need_inputs), leaf(hidden, need_hidden), leaf(mixing, need_mixing)
        weights = [leaf(w, need_weights) for w in weights]
        result, *_ = _forward(inputs, hidden, weights, mask, mixing, eps, False)
        needed = [inputs] * need_inputs + [hidden] * need_hidden + [mixing] * need_mixing + weights * need_weights
        gradients = iter(
            torch.autograd.grad(result, needed, grad, create_graph=create_graph, materialize_grads=True)
            if needed
            else ()
        )
        dinputs = next(gradients) if need_inputs else inputs.new_empty(0)
        dhidden = next(gradients) if need_hidden else hidden.new_empty(0)
        dmixing = next(gradients) if need_mixing else mixing.new_empty(0)
    return dinputs, dhidden, list(gradients), dmixing


def _backward_fake(
    grad, inputs, hidden, weights, mask, mixing, eps, out, var, states, gates, need_inputs, need_hidden, need_weights,
    need_mixing,
):  # fmt: skip
    return (
        torch.empty_like(inputs) if need_inputs else inputs.new_empty(0),
        torch.empty_like(hidden) if need_hidden else hidden.new_empty(0),
        [torch.empty_like(w) for w in weights] if need_weights else [],
        torch.empty_like(mixing) if need_mixing else mixing.new_empty(0),
    )


forward_op = define(
    "recurrent(Tensor inputs, Tensor hidden, Tensor[] weights, Tensor? mask, Tensor mixing, float eps, bool store)"
    " -> (Tensor out, Tensor mean, Tensor var, Tensor states, Tensor gates)",
    _forward,
    _forward_fake,
    triton=".recurrent.triton:forward",
    gpu_dtypes=TRITON_DTYPES,
)
backward_op = define(
    "recurrent_backward(Tensor grad, Tensor inputs, Tensor hidden, Tensor[] weights, Tensor? mask, Tensor mixing,"
    " float eps, Tensor out, Tensor var, Tensor states, Tensor gates, bool need_inputs, bool need_hidden,"
    " bool need_weights, bool need_mixing) -> (Tensor dinputs, Tensor dhidden, Tensor[] dweights, Tensor dmixing)",
    _backward,
    _backward_fake,
    triton=".recurrent.triton:backward",
    gpu_dtypes=TRITON_DTYPES,
)


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl, eps, store, mask, inputs, hidden, mixing, *weights):
        run = select(forward_op, impl, hidden.device.type, hidden.dtype)
        out, mean, var, states, gates = run(inputs, hidden, weights, mask, mixing, eps, store)
        ctx.run, ctx.eps = select(backward_op, impl, hidden.device.type, hidden.dtype), eps
        ctx.save_for_backward(mask, inputs, hidden, mixing, out, var, states, gates, *weights)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        mask, inputs, hidden, mixing, out, var, states, gates, *weights = ctx.saved_tensors
        count = len(weights)
        needs = (*ctx.needs_input_grad[4:7], any(ctx.needs_input_grad[7:]))
        spans = (count + 3, 1), (count + 2, 1), (count + 1, 1), (count, count)
        needs = [need and needs_grad(ctx, *span) for need, span in zip(needs, spans, strict=True)]
        need_inputs, need_hidden, need_mixing, need_weights = needs
        # create_graph=True: a kernel would be a constant to the second differentiation
        run, graph = (_backward, (True,)) if torch.is_grad_enabled() else (ctx.run, ())
        dinputs, dhidden, dweights, dmixing = run(
            grad.contiguous(), inputs, hidden, weights, mask, mixing, ctx.eps, out, var, states, gates, need_inputs,
            need_hidden, need_weights, need_mixing, *graph,
        )  # fmt: skip
        return (
            *(None,) * 4,
            dinputs if need_inputs else None,
            dhidden if need_hidden else None,
            dmixing if need_mixing else None,
            *(dweights if need_weights else [None] * count),
        )


def recurrent(
    inputs: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    mixing: Tensor,
    eps: float,
    impl: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The differentiable op; fastdarts.functional has validated, all is contiguous and on one device."""
    if select(forward_op, impl, hidden.device.type, hidden.dtype) is forward_op.reference:
        return _forward(inputs, hidden, weights, mask, mixing, eps, False)[:3]  # autograd keeps what it needs
    return _Recurrent.apply(impl, eps, torch.is_grad_enabled(), mask, inputs, hidden, mixing, *weights)
