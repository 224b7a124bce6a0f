"""The demonstration model's tokenizer: a byte-level BPE of the reference's kind (section 9), trained on the corpus."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_ROWS = 4096
"""Rows of the embedding; the last few are padding that is never sampled, as in the family."""

PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|role_end|>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    *(f"<|reserved_token_{k}|>" for k in range(5, 256)),
    "<role>", "</role>",
)  # fmt: skip


def train_tokenizer(texts: Iterable[str], padding: int = 8) -> Tokenizer:
    """Train on texts; special tokens follow the learned entries, then `padding` unused rows up to VOCAB_ROWS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_ROWS - padding - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL_TOKENS])
    return tokenizer
