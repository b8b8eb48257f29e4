"""A GRU in torch's convention, as engines run it: cuDNN's one call on CUDA, written out on the CPU.

    r = sigmoid(x W_ir + b_ir + h W_hr + b_hr)      reset gate
    z = sigmoid(x W_iz + b_iz + h W_hz + b_hz)      update gate
    n = tanh(x W_in + b_in + r (h W_hn + b_hn))     candidate
    h' = (1 - z) n + z h

Written out it is five operations a token instead of torch's dozen. All tokens' x W_i are one product, with
all biases added; the recurrent product adds onto it. That puts x W_in + b_in inside r's bracket as well,
which an interpolation takes out again: with a = x W_in + b_in and c = a + h W_hn + b_hn,
a + r (h W_hn + b_hn) = a + r (c - a).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.packed import PackedLinear, plain_wanted


class FoldedGru(nn.Module):
    """One layer, one direction.

    Args:
        gru: torch's, `batch_first`, in at least the precision asked for.
        dtype: to run in.
        fused: run torch's own call; None for that on CUDA, and in what is to be exported.
    """

    _recurrent: torch.Tensor
    _candidate_bias: torch.Tensor

    def __init__(self, gru: nn.GRU, dtype: torch.dtype, fused: bool | None = None) -> None:
        super().__init__()
        self.width = width = gru.hidden_size
        weight, recurrent = gru.get_parameter("weight_ih_l0"), gru.get_parameter("weight_hh_l0")
        bias, recurrent_bias = gru.get_parameter("bias_ih_l0"), gru.get_parameter("bias_hh_l0")
        self._fused: nn.GRU | None = None
        if (weight.is_cuda or plain_wanted()) if fused is None else fused:
            self._fused = copy.deepcopy(gru).to(dtype)
            return
        self._input = PackedLinear(weight, bias + recurrent_bias, dtype)
        # one row is torch's to multiply, many are oneDNN's
        self.register_buffer("_recurrent", recurrent.t().to(dtype).contiguous())
        self._recurrent_many = PackedLinear(recurrent, torch.zeros_like(recurrent_bias), dtype)
        self.register_buffer("_candidate_bias", recurrent_bias[2 * width :].to(dtype))

    def forward(self, tokens: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(T, B, d_in) inputs, time first, and (B, d) state -> (T, B, d) states."""
        if self._fused is not None:
            return self._fused(tokens.transpose(0, 1), state[None].contiguous())[0].transpose(0, 1)
        width = self.width
        given = self._input(tokens)
        if torch.compiler.is_compiling():  # makes of it what it likes, and knows no targets that are views
            return self._written_out(given, state)
        inputs = given[..., 2 * width :] - self._candidate_bias
        out = torch.empty_like(inputs)
        summed = torch.empty_like(given[0])
        gates = summed[:, : 2 * width]
        reset, update, candidate = summed.split(width, dim=1)
        for known, own, target in zip(given.unbind(0), inputs.unbind(0), out.unbind(0), strict=True):
            if len(state) == 1:
                torch.addmm(known, state, self._recurrent, out=summed)
            else:
                torch.add(known, self._recurrent_many(state), out=summed)
            gates.sigmoid_()
            torch.lerp(own, candidate, reset, out=candidate).tanh_()
            state = torch.lerp(candidate, state, update, out=target)
        return out

    def _written_out(self, given: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        states = []
        for known in given.unbind(0):
            reset, update, own = known.chunk(3, dim=1)
            recurrent = torch.addmm(F.pad(self._candidate_bias, (2 * self.width, 0)), state, self._recurrent)
            more_reset, more_update, more_own = recurrent.chunk(3, dim=1)
            reset, update = torch.sigmoid(reset + more_reset), torch.sigmoid(update + more_update)
            candidate = torch.tanh(own - self._candidate_bias + reset * more_own)
            state = torch.lerp(candidate, state, update)
            states.append(state)
        return torch.stack(states)
