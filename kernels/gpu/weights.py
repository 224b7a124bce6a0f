"""Products with packed weights, tile by tile: what every kernel that reads a quantised matrix is made of.

A tile is BLOCKS row blocks of the matrix by TOKENS rows of activation. Weights are the left operand of an integer dot
product and go from memory to it as words of four bytes; a tile's rows are `16 * BLOCKS`, in the order of `o_blocks`.

Pointers are to bytes and come from a tensor or from an address: `address.to(tl.pointer_type(tl.uint8))`. They start
at a multiple of 16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.language import ROW_BLOCK

# The upper halves of four bytes, and the sign of each.
_UPPER, _SIGNS = tl.constexpr(0xF0F0F0F0 - (1 << 32)), tl.constexpr(0x80808080 - (1 << 32))
_UPPER_HALF = tl.constexpr(0xFFFF0000 - (1 << 32))


@triton.jit
def product_tile(
    p_weights,
    p_scales,
    p_zeros,
    o_blocks,
    m_blocks,
    p_q,
    p_token_scales,
    o_tokens,
    m_tokens,
    groups,
    BITS: tl.constexpr,
    G: tl.constexpr,
    FP16: tl.constexpr,
    ZEROS: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCKS: tl.constexpr,
    TOKENS: tl.constexpr,
    COUNT: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr = False,
):
    """Row blocks of a matrix times rows of activation, over all `groups` in the order of the format.

    p_weights, p_scales, p_zeros are the matrix's planes, zeros unread unless ZEROS; o_blocks [BLOCKS] are the row
    blocks wanted, and m_blocks says which of them are read at all. p_q int8 [.., groups * G] and p_token_scales fp32
    [.., groups] are a Quantised, of which o_tokens, m_tokens [TOKENS] are the rows wanted and read. COUNT groups, a
    power of two, are taken at once, and STAGES - 1 such loads are on their way; with COUNT = 1 a group is one plain
    product, for which 64 rows and more make the best use of tensor cores. Returns fp32 [16 * BLOCKS, TOKENS], 0 where
    masked.
    """
    acc = tl.zeros([ROW_BLOCK * BLOCKS, TOKENS], tl.float32)
    if PARTIALS > 1:
        # Finished partials move up: the last is in `third`.
        first, second, third = acc, acc, acc
        steps = tl.cdiv(tl.cdiv(groups, PARTIALS), COUNT)
        for step in tl.range(0, PARTIALS * steps, num_stages=STAGES):
            partial = step // steps
            group = partial * groups // PARTIALS + step % steps * COUNT
            stop = None if EVEN else (partial + 1) * groups // PARTIALS
            is_new = (step % steps == 0) & (step > 0)
            if PARTIALS == 4:
                first, second = tl.where(is_new, second, first), tl.where(is_new, third, second)
            third = tl.where(is_new, acc, third)
            terms = group_products(
                p_weights, p_scales, p_zeros, o_blocks, m_blocks, p_q, p_token_scales, o_tokens, m_tokens,
                group, stop, groups, BITS, G, FP16, ZEROS, BLOCKS, TOKENS, COUNT,
            )  # fmt: skip
            acc = add_in_order(tl.where(is_new, 0.0, acc), terms, COUNT)
        acc = (first + second) + (third + acc) if PARTIALS == 4 else third + acc
    else:
        for group in tl.range(0, groups, COUNT, num_stages=STAGES):
            terms = group_products(
                p_weights, p_scales, p_zeros, o_blocks, m_blocks, p_q, p_token_scales, o_tokens, m_tokens,
                group, None if EVEN else groups, groups, BITS, G, FP16, ZEROS, BLOCKS, TOKENS, COUNT,
            )  # fmt: skip
            acc = add_in_order(acc, terms, COUNT)
    return acc


@triton.jit
def group_products(
    p_weights,
    p_scales,
    p_zeros,
    o_blocks,
    m_blocks,
    p_q,
    p_token_scales,
    o_tokens,
    m_tokens,
    group,
    stop,
    groups,
    BITS: tl.constexpr,
    G: tl.constexpr,
    FP16: tl.constexpr,
    ZEROS: tl.constexpr,
    BLOCKS: tl.constexpr,
    TOKENS: tl.constexpr,
    COUNT: tl.constexpr,
):
    """float(d) * (s_w * s_a) of COUNT groups from `group` on, 0 from group `stop` on: fp32 [ROWS, TOKENS, COUNT].

    Here and below, `stop` may be None where no group is beyond it.
    """
    words = load_words(p_weights, o_blocks, m_blocks, group, stop, groups, G * BITS // 2, BLOCKS, COUNT)
    q = load_tokens(p_q, o_tokens, m_tokens, group, stop, groups, G, TOKENS, COUNT)
    scales = load_scales(p_scales, o_blocks, m_blocks, group, stop, groups, FP16, BLOCKS, COUNT)
    token_scales = load_token_scales(p_token_scales, o_tokens, m_tokens, group, stop, groups, COUNT)
    d = dots(unpack(words, BITS, G, BLOCKS, COUNT), q, BITS, COUNT)
    if ZEROS:
        zeros = load_zeros(p_zeros, o_blocks, m_blocks, group, stop, groups, BLOCKS, COUNT)
        # The sum of q over a group, for every row, where the product with the group is.
        d -= zeros[:, :, None] * dots(tl.full([COUNT, BLOCKS * ROW_BLOCK, G], 1, tl.int8), q, 8, COUNT)
    terms = d.to(tl.float32) * (scales[:, :, None] * token_scales[:, None, :])
    return tl.permute(terms, (1, 2, 0))


@triton.jit
def load_words(
    p_plane, o_blocks, m_blocks, group, stop, groups, WORDS: tl.constexpr, BLOCKS: tl.constexpr, COUNT: tl.constexpr
):
    """COUNT groups of a plane that has WORDS words for each group of a row block: int32 [BLOCKS, COUNT * WORDS].

    What is masked or at group `stop` and beyond is 0.
    """
    p_words = tl.multiple_of(p_plane.to(tl.pointer_type(tl.int32), bitcast=True), 16)
    o_words = tl.arange(0, COUNT * WORDS)
    m_words = m_blocks[:, None]
    if stop is not None:
        m_words &= (group + o_words // WORDS < stop)[None, :]
    o_run = (o_blocks.to(tl.int64) * groups + group) * WORDS
    return tl.load(p_words + o_run[:, None] + o_words[None, :], mask=m_words, other=0)


@triton.jit
def unpack(words, BITS: tl.constexpr, G: tl.constexpr, BLOCKS: tl.constexpr, COUNT: tl.constexpr):
    """Weights of `load_words` as int8 [COUNT, 16 * BLOCKS, G]: q at 8 bit, 16 q at 4 bit."""
    if BITS == 4:
        # A nibble n is q + 8: as the upper half of a byte, with the sign turned, it is 16 q.
        low, high = ((words << 4) & _UPPER) ^ _SIGNS, (words & _UPPER) ^ _SIGNS
        words = tl.join(low, high)
    unit: tl.constexpr = 32 // BITS
    by_unit = tl.reshape(_four_bytes(words), [BLOCKS, COUNT, G // unit, ROW_BLOCK, unit])
    return tl.reshape(tl.permute(by_unit, (1, 0, 3, 2, 4)), [COUNT, BLOCKS * ROW_BLOCK, G])


@triton.jit
def dots(weights, q, BITS: tl.constexpr, COUNT: tl.constexpr):
    """d of weights of `unpack` [COUNT, ROWS, G] and activations [COUNT, G, TOKENS]: int32 [COUNT, ROWS, TOKENS]."""
    if COUNT == 1:
        d = tl.dot(tl.reshape(weights, weights.shape[1:]), tl.reshape(q, q.shape[1:]))
        d = tl.expand_dims(d, 0)
    else:
        d = tl.dot(weights, q)
    return d >> 4 if BITS == 4 else d


@triton.jit
def load_scales(
    p_scales, o_blocks, m_blocks, group, stop, groups, FP16: tl.constexpr, BLOCKS: tl.constexpr, COUNT: tl.constexpr
):
    """Scales of COUNT groups: fp32 [COUNT, 16 * BLOCKS]."""
    words = load_words(p_scales, o_blocks, m_blocks, group, stop, groups, ROW_BLOCK // 2, BLOCKS, COUNT)
    if FP16:
        pairs = tl.join(_from_fp16(words), _from_fp16(words >> 16))
    else:
        pairs = tl.join((words << 16).to(tl.float32, bitcast=True), (words & _UPPER_HALF).to(tl.float32, bitcast=True))
    return _by_group(pairs, BLOCKS, COUNT)


@triton.jit
def load_zeros(p_zeros, o_blocks, m_blocks, group, stop, groups, BLOCKS: tl.constexpr, COUNT: tl.constexpr):
    """Zero points of COUNT groups: int32 [COUNT, 16 * BLOCKS]."""
    words = load_words(p_zeros, o_blocks, m_blocks, group, stop, groups, ROW_BLOCK // 4, BLOCKS, COUNT)
    return _by_group(_four_bytes(words), BLOCKS, COUNT).to(tl.int32)


@triton.jit
def load_tokens(
    p_q, o_tokens, m_tokens, group, stop, groups, G: tl.constexpr, TOKENS: tl.constexpr, COUNT: tl.constexpr
):
    """COUNT groups of quantised rows: int8 [COUNT, G, TOKENS]."""
    o_columns = tl.arange(0, COUNT * G)
    mask = m_tokens[:, None]
    if stop is not None:
        mask &= (group + o_columns // G < stop)[None, :]
    o_run = (o_tokens.to(tl.int64) * groups + group) * G
    q = tl.load(p_q + o_run[:, None] + o_columns[None, :], mask=mask, other=0)
    return tl.permute(tl.reshape(q, [TOKENS, COUNT, G]), (1, 2, 0))


@triton.jit
def load_token_scales(p_scales, o_tokens, m_tokens, group, stop, groups, COUNT: tl.constexpr):
    """Scales of COUNT groups of quantised rows: fp32 [COUNT, TOKENS]."""
    o_groups = group + tl.arange(0, COUNT)
    offsets = (o_tokens.to(tl.int64) * groups)[None, :] + o_groups[:, None]
    mask = m_tokens[None, :]
    if stop is not None:
        mask &= (o_groups < stop)[:, None]
    return tl.load(p_scales + offsets, mask=mask, other=0.0)


@triton.jit
def add_in_order(acc, terms, COUNT: tl.constexpr):
    """acc [.., ..] + terms [.., .., 0] + terms [.., .., 1] + ..., one after another."""
    if COUNT == 1:
        return acc + tl.reshape(terms, acc.shape)
    else:
        halves = tl.reshape(terms, [acc.shape[0], acc.shape[1], 2, COUNT // 2])
        earlier, later = tl.split(tl.permute(halves, (0, 1, 3, 2)))
        acc = add_in_order(acc, earlier, COUNT // 2)
        return add_in_order(acc, later, COUNT // 2)


@triton.jit
def _four_bytes(words):
    """int32 [..] as its bytes, lowest first: int8 [.., 2, 2]."""
    even = tl.join(words.to(tl.int8), (words >> 16).to(tl.int8))
    odd = tl.join((words >> 8).to(tl.int8), (words >> 24).to(tl.int8))
    return tl.join(even, odd)


@triton.jit
def _from_fp16(word):
    """The lower half of a word, which is an fp16, as fp32."""
    return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _by_group(parts, BLOCKS: tl.constexpr, COUNT: tl.constexpr):
    """What words of groups held, [COUNT, 16 * BLOCKS]."""
    by_block = tl.reshape(parts, [BLOCKS, COUNT, ROW_BLOCK])
    return tl.reshape(tl.permute(by_block, (1, 0, 2)), [COUNT, BLOCKS * ROW_BLOCK])
