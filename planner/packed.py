"""Linear layers of an engine, on the fastest kernel that is there.

On the CPU that is oneDNN with the weights laid out once, as torch's own compiler calls it: at six tokens it
takes half the time of `F.linear` (MKL, which leaves half of an AMD core's vector width unused), and GELU
rides along. Where torch or the processor has no such kernel, or it computes something else, `F.linear` runs,
which is said once in the log. Other devices and dtypes always take `F.linear`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

log = logging.getLogger(__name__)

_plain = contextvars.ContextVar("plain", default=False)

_ROWS = 8
"""Rows that oneDNN lays the weights out for. Any number then works; all but one give the same layout, and
that for one row costs half as much again at any other number."""


class PackedLinear(nn.Module):
    """x W^T + b, with GELU behind it if asked for; the weights are copied.

    Args:
        weight: (d_out, d_in).
        bias: (d_out,).
        dtype: of the weights and of what comes in and goes out.
        gelu: apply GELU (the exact one, by erf).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        dtype: torch.dtype,
        gelu: bool = False,
    ) -> None:
        super().__init__()
        self._activation = ("gelu", "none") if gelu else ("none", "")
        weight = weight.to(dtype).contiguous()
        self._packed = weight.device.type == "cpu" and not plain_wanted() and packing_works(dtype)
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(dtype).contiguous())

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, gelu: bool = False) -> PackedLinear:
        """The same as a torch layer."""
        return cls(linear.weight, linear.bias, dtype, gelu)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, d_in) -> (…, d_out)."""
        name, variant = self._activation
        if torch.onnx.is_in_onnx_export():  # a product with its weight as the right operand can be quantised
            out = tokens @ self.weight.t() + self.bias
            return F.gelu(out) if name == "gelu" else out
        if not self._packed:
            out = F.linear(tokens, self.weight, self.bias)
            return F.gelu(out) if name == "gelu" else out
        if torch.jit.is_tracing():  # a trace knows no empty list of scalars; a script does
            return _scripted()(tokens, self.weight, self.bias, name, variant)
        return torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, name, [], variant)


class LayeredLinear(nn.Module):
    """L linear layers side by side, each on its own input.

    Args:
        weights: L of (d_out, d_in).
        biases: L of (d_out,).
        dtype: as in `PackedLinear`.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._layers: nn.ModuleList | None = None
        if weights[0].device.type == "cpu" and not plain_wanted() and packing_works(dtype):
            # one batched product (MKL's) takes twice the time of L packed ones
            self._layers = nn.ModuleList(
                PackedLinear(weight, bias, dtype) for weight, bias in zip(weights, biases, strict=True)
            )
        else:
            weight = torch.stack([weight.t() for weight in weights])
            self.register_buffer("weight", weight.to(dtype).contiguous())
            self.register_buffer("bias", torch.stack(list(biases))[:, None].to(dtype))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(L, R, d_in) -> (L, R, d_out)."""
        if self._layers is None:
            return torch.baddbmm(self.bias, tokens, self.weight)
        return torch.stack([layer(rows) for layer, rows in zip(self._layers, tokens.unbind(0), strict=True)])


@contextlib.contextmanager
def plain_products() -> Iterator[None]:
    """Layers built in this block use operations that every exporter knows, whatever is faster here."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def plain_wanted() -> bool:
    """Whether a `plain_products` block is open."""
    return _plain.get()


@functools.cache
def _scripted() -> Callable[..., torch.Tensor]:
    return torch.jit.script(_linear_pointwise)


def _linear_pointwise(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, name: str, variant: str
) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, name, [], variant)


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed linear is there for a dtype on the CPU, and right."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    tokens, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((3, 32), (48, 32), (48,))
    )
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        got = torch.ops.mkldnn._linear_pointwise(tokens, packed, bias, "gelu", [], "none")
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        want = F.gelu(F.linear(tokens.double(), weight.double(), bias.double()))
        if torch.allclose(got.double(), want, atol=1e-5 if dtype == torch.float32 else 0.1):
            return True
        reason = "its results are wrong"
    log.warning("oneDNN's packed linear is of no use here (%s); plain products run instead", reason[:120])
    return False


def weight_bytes(*modules: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    tensors = [item for module in modules for item in (*module.parameters(), *module.buffers())]
    return sum(item.numel() * item.element_size() for item in tensors)
