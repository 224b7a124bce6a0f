"""Copies of experts between host memory and slots, made by the device: it reads and writes host memory itself.

The link answers after a microsecond or two, so that what counts is how much is asked for at once: a thread asks for all
of its 16-byte parts of a block before it stores the first.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.launch import launch
from kernels.gpu.tables import Fetches, Placement

# Programs that share one blob, each with a block of so many 8-byte words on its way: 256 KiB for each blob.
PARTS = 16
BLOCK = 2048

_WORD = tl.constexpr(8)


def launch_page_in(fetches: Fetches, placement: Placement, staged: Tensor | None = None, parts: int = PARTS) -> None:
    """Copies each blob that is to be fetched from its frame into its slot, by so many programs each.

    With `staged` uint8 [most, blob bytes], in memory that the device reads, move i is read from row i of it instead. An
    exclusive placement is swapped. Raises ValueError for blobs that are no multiple of 16 bytes.
    """
    _check(placement)
    if placement.exclusive:
        if staged is not None:
            raise ValueError("an exclusive placement is not staged: what leaves a slot would have no frame to go to")
        launch_swap(fetches, placement, parts)
        return
    moves, columns = fetches.moves, fetches.moves.shape[1]
    launch(
        _page_in,
        (fetches.most, parts),
        fetches.count,
        moves,
        placement.frames,
        staged,
        placement.slots,
        placement.blob_bytes,
        parts,
        COLUMNS=columns,
        BLOCK=BLOCK,
    )


def launch_swap(fetches: Fetches, placement: Placement, parts: int = PARTS) -> None:
    """Copies each blob that is to be fetched into its slot, and what was in the slot into its frame.

    Where the third column of a move is 0 the slot was free, and the frame is left as it is.
    """
    _check(placement)
    launch(
        _swap,
        (fetches.most, parts),
        fetches.count,
        fetches.moves,
        placement.frames,
        placement.slots,
        placement.blob_bytes,
        parts,
        COLUMNS=fetches.moves.shape[1],
        BLOCK=BLOCK,
    )


def _check(placement: Placement) -> None:
    if placement.blob_bytes % 16:
        raise ValueError(f"blobs of {placement.blob_bytes} bytes are no multiple of 16")


@triton.jit
def _page_in(
    p_count, p_moves, p_frames, p_staged, p_slots, blob_bytes, parts, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    move, part = tl.program_id(0), tl.program_id(1)
    if move < tl.load(p_count):
        if p_staged is None:
            p_from = _blob(tl.load(p_frames), tl.load(p_moves + move * COLUMNS), blob_bytes)
        else:
            p_from = _blob(p_staged.to(tl.int64), move, blob_bytes)
        p_to = _blob(p_slots.to(tl.int64), tl.load(p_moves + move * COLUMNS + 1), blob_bytes)
        words = blob_bytes // _WORD
        for start in range(part * BLOCK, words, parts * BLOCK):
            o_word = start + tl.arange(0, BLOCK)
            m_word = o_word < words
            come = tl.load(p_from + o_word, mask=m_word, cache_modifier=".cg")
            tl.store(p_to + o_word, come, mask=m_word)


@triton.jit
def _swap(p_count, p_moves, p_frames, p_slots, blob_bytes, parts, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    move, part = tl.program_id(0), tl.program_id(1)
    if move < tl.load(p_count):
        p_move = p_moves + move * COLUMNS
        p_frame = _blob(tl.load(p_frames), tl.load(p_move), blob_bytes)
        p_slot = _blob(p_slots.to(tl.int64), tl.load(p_move + 1), blob_bytes)
        words = blob_bytes // _WORD
        words_back = tl.where(tl.load(p_move + 2) != 0, words, 0)
        for start in range(part * BLOCK, words, parts * BLOCK):
            o_word = start + tl.arange(0, BLOCK)
            m_word, m_back = o_word < words, o_word < words_back
            come = tl.load(p_frame + o_word, mask=m_word, cache_modifier=".cg")
            go = tl.load(p_slot + o_word, mask=m_back, cache_modifier=".cg")
            tl.store(p_slot + o_word, come, mask=m_word)
            tl.store(p_frame + o_word, go, mask=m_back)


@triton.jit
def _blob(address, index, blob_bytes):
    """The 8-byte words of a blob, which start at a multiple of 16 bytes."""
    start = address + index.to(tl.int64) * blob_bytes
    return tl.multiple_of(start.to(tl.pointer_type(tl.int64)), 16)
