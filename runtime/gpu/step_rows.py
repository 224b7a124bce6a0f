"""What the launches of one step share."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.gpu.attention import Rows
from runtime.gpu.step_inputs import StepInputs
from runtime.kv_cache import KVCache

# The fewest blocks of keys that a graph provides for; each further graph provides for twice as many.
FEWEST_BLOCKS = 4


@dataclass(frozen=True)
class StepRows:
    """T rows of a step, of which each sees up to `blocks` blocks of keys. Forced, experts are those of the inputs."""

    inputs: StepInputs
    cache: KVCache
    blocks: int
    forced: bool

    @property
    def count(self) -> int:
        return self.inputs.x.shape[0]

    @property
    def attention(self) -> Rows:
        return Rows(self.inputs.first, self.inputs.seen, self.inputs.block_table, self.blocks)


def provided_blocks(blocks: int) -> int:
    """How many blocks of keys the launches provide for where a row sees so many."""
    provided = FEWEST_BLOCKS
    while provided < blocks:
        provided *= 2
    return provided
