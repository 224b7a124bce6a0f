"""The products of a step that every token has, from and into scratch memory."""

from __future__ import annotations

from torch import Tensor

from kernels.formats import Matrix
from kernels.gpu.feed_forward import Operand, Workspace, launch_swiglu
from kernels.gpu.float_linear import launch_float_linear
from kernels.gpu.linear import launch_linear
from kernels.gpu.norm import launch_rms_norm
from kernels.gpu.quantise import Quantised, launch_quantise
from kernels.ops import SwiGLUWeights
from runtime.gpu.scratch import Scratch


class DenseStep:
    """Launches products with matrices of any format. Scratch is by width and format: calls may follow at once."""

    def __init__(self, scratch: Scratch, eps: float) -> None:
        self._scratch = scratch
        self._eps = eps

    def linear(self, x: Tensor, matrix: Matrix, out: Tensor, residual: Tensor | None, fault: Tensor) -> None:
        """out = residual + x fp32 [T, K] times the transpose of matrix."""
        self._product(self.operand(x, matrix, fault), matrix, out, residual)

    def normed_linear(self, x: Tensor, norm: Tensor, matrix: Matrix, out: Tensor, fault: Tensor) -> None:
        """out = normed x times the transpose of matrix; a quantised operand is made as it is normed."""
        if not matrix.format.is_quantised:
            normed = self._scratch.rows("normed", *x.shape)
            launch_rms_norm(x, norm, self._eps, normed, None, None)
            launch_float_linear(normed, matrix.floats, out)
            return
        a = self._quantised(x, matrix)
        launch_rms_norm(x, norm, self._eps, None, a, fault)
        launch_linear(a, matrix, out, None)

    def operand(self, x: Tensor, matrix: Matrix, fault: Tensor) -> Operand:
        """x fp32 [T, K] as a matrix takes it."""
        if not matrix.format.is_quantised:
            return x
        a = self._quantised(x, matrix)
        launch_quantise(x, a, fault)
        return a

    def swiglu(self, weights: SwiGLUWeights, x: Operand, out: Tensor, residual: Tensor | None, fault: Tensor) -> None:
        """out = residual + down(silu(gate(x)) * up(x)) of x [T, M], as gate_up takes it."""
        rows, inner = out.shape[0], weights.down.columns
        gate_up = self._scratch.rows(f"gate and up {inner}", rows, 2 * inner)
        hidden: Operand
        if weights.down.format.is_quantised:
            hidden = self._scratch.quantised(f"gated {inner}", rows, inner, weights.down.format.group)
        else:
            hidden = self._scratch.rows(f"gated {inner}", rows, inner)
        launch_swiglu(x, weights, Workspace(gate_up, hidden), fault, out, residual)

    def _quantised(self, x: Tensor, matrix: Matrix) -> Quantised:
        """Memory for x as a quantised matrix takes it."""
        rows, width = x.shape
        return self._scratch.quantised(f"operand {width}", rows, width, matrix.format.group)

    def _product(self, a: Operand, matrix: Matrix, out: Tensor, residual: Tensor | None) -> None:
        if isinstance(a, Tensor):
            launch_float_linear(a, matrix.floats, out, residual)
        else:
            launch_linear(a, matrix, out, residual)
