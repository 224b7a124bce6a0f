"""Text to token ids and back. Template literals and untrusted text are never tokenised in the same way."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as BPETokenizer

from runtime.errors import CheckpointError
from runtime.template import BUILT_IN, ChatTemplate, Message, Segment, choose_template

COMPLETE_CHECKPOINT = "Copy the checkpoint's tokenizer files again, unchanged."


class Tokenizer:
    """A checkpoint's byte-level BPE with its special tokens and its chat template.

    Raises CheckpointError when the files are missing, damaged, or of a kind that would be misread.
    """

    def __init__(
        self,
        source: str,
        *,
        template: ChatTemplate = BUILT_IN,
        template_note: str = "",
        stop_tokens: Iterable[int | str] = (),
    ) -> None:
        spec = _parsed(source)
        self._added = _added_tokens(spec)
        # Without its added tokens the tokenizer cannot produce a special id, whatever the text spells.
        self._bpe = BPETokenizer.from_str(json.dumps({**spec, "added_tokens": [], "post_processor": None}))
        self._tokens = _token_table(spec, self._added)
        self._special = _any_of(self._added)
        self._bytes: dict[int, bytes] = {}
        self.source = source
        # How many ids have a token; the model's rows from here on are padding and never sampled.
        self.size = max(self._tokens) + 1
        self.template = template
        self.template_note = template_note
        self.stop_token_ids = self._ids_of(stop_tokens)

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """Reads tokenizer.json, and from its neighbours the chat template and the stop tokens."""
        directory = Path(path)
        source = _read_text(directory / "tokenizer.json")
        settings = _read_json(directory / "tokenizer_config.json")
        generation = _read_json(directory / "generation_config.json")
        template, note = choose_template(_template_source(directory, settings), _token_names(settings))
        stop = [*_as_list(generation.get("eos_token_id")), *_as_list(_token_names(settings).get("eos_token"))]
        return cls(source, template=template, template_note=note, stop_tokens=stop)

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self._added.values())

    def encode_trusted(self, text: str) -> list[int]:
        """Ids of text of our own: special tokens in it are control tokens."""
        ids: list[int] = []
        for piece in self._special.split(text):
            ids.extend([self._added[piece]] if piece in self._added else self.encode_text(piece))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of text of others: it never yields a special token, whatever it spells."""
        # Half of a surrogate pair, as broken JSON can hold, is no text to the tokenizer.
        whole = text.encode("utf-8", errors="replace").decode()
        return list(self._bpe.encode(whole, add_special_tokens=False).ids)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids that decode to exactly these bytes, where the normaliser would change the text too."""
        ids = self.encode_text(data.decode("utf-8", errors="replace"))
        if b"".join(map(self.token_bytes, ids)) == data:
            return ids
        return [self._id_of_byte(byte) for byte in data]

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text; a padding id adds nothing."""
        if token_id not in self._bytes:
            token = self._tokens.get(token_id, "")
            known = all(character in BYTE_OF for character in token)
            self._bytes[token_id] = bytes(BYTE_OF[c] for c in token) if known else token.encode()
        return self._bytes[token_id]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def segments(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Segment]:
        return self.template.segments(messages, add_generation_prompt, tools)

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The prompt of a conversation: template literals and contents tokenised apart."""
        ids: list[int] = []
        for segment in self.segments(messages, add_generation_prompt, tools):
            ids.extend(self.encode_trusted(segment.text) if segment.trusted else self.encode_text(segment.text))
        return ids

    def _ids_of(self, tokens: Iterable[int | str]) -> tuple[int, ...]:
        ids = {self._added.get(token) if isinstance(token, str) else token for token in tokens}
        return tuple(sorted(token_id for token_id in ids if token_id is not None))

    def _id_of_byte(self, byte: int) -> int:
        token_id = self._bpe.token_to_id(BYTE_SYMBOL[byte])
        if token_id is None:
            raise CheckpointError(f"tokenizer.json has no token for byte {byte}", COMPLETE_CHECKPOINT)
        return int(token_id)


class StreamDecoder:
    """Turns tokens into text as they come: never half a character, never a part of a stop string.

    What may still become either is held back. `text_bytes` counts the bytes that belong to the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(word.encode() for word in stop if word)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._released = 0
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain after this token; sets `stopped` when a stop string is complete."""
        self._held += self._tokenizer.token_bytes(token_id)
        if not self._stop:
            return self._release(len(self._held))
        found = [at for at in (self._held.find(word) for word in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self._release(len(self._held))
        return self._release(len(self._held) - self._possible_stop())

    def finish(self) -> str:
        """What was held back for a stop string that did not come; an unfinished character is dropped."""
        return self._release(len(self._held))

    @property
    def text_bytes(self) -> int:
        """Bytes of all text given out so far, without an unfinished character at its end."""
        return self._released - len(self._utf8.getstate()[0])

    def _release(self, count: int) -> str:
        ready, self._held = self._held[:count], self._held[count:]
        self._released += count
        return self._utf8.decode(ready)

    def _possible_stop(self) -> int:
        """The length of the longest end of the held bytes that begins a stop string."""
        return max((_overlap(self._held, word) for word in self._stop), default=0)


def _overlap(text: bytes, word: bytes) -> int:
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)


def _byte_symbols() -> dict[int, str]:
    """The printable stand-in of every byte in byte-level BPE vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in symbols)
    return symbols | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


BYTE_SYMBOL = _byte_symbols()
BYTE_OF = {symbol: byte for byte, symbol in BYTE_SYMBOL.items()}


def _any_of(added: Mapping[str, int]) -> re.Pattern[str]:
    """Splits a text at special tokens and keeps them; the longest wins where several begin."""
    longest_first = sorted(added, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if added else r"(?!)")


def _added_tokens(spec: Mapping[str, Any]) -> dict[str, int]:
    added = spec.get("added_tokens") or []
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise CheckpointError(
                f"tokenizer.json matches {token['content']!r} with lstrip, rstrip or single_word",
                "Use the tokenizer of a Ling 2.0 checkpoint.",
            )
    return {token["content"]: int(token["id"]) for token in added}


def _token_table(spec: Mapping[str, Any], added: Mapping[str, int]) -> dict[int, str]:
    model = spec.get("model") or {}
    vocab = model.get("vocab")
    if model.get("type") != "BPE" or not isinstance(vocab, dict) or not vocab:
        raise CheckpointError(f"tokenizer.json holds a {model.get('type')} model, not BPE", COMPLETE_CHECKPOINT)
    return {token_id: token for token, token_id in {**vocab, **added}.items()}


def _template_source(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """The checkpoint's own chat template: in its config, one of several there, or in a file beside it."""
    beside = directory / "chat_template.jinja"
    if beside.is_file():
        return _read_text(beside)
    source = settings.get("chat_template")
    if isinstance(source, list):
        source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
    return source if isinstance(source, str) else None


def _token_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and pad_token by their text; older files wrap them in an object."""
    found = {name: settings.get(name) for name in ("bos_token", "eos_token", "pad_token")}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _read_json(path: Path) -> dict[str, Any]:
    """An optional file's content; one that is absent says nothing."""
    return _parsed(_read_text(path), path.name) if path.is_file() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "Give the directory of a complete checkpoint.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", COMPLETE_CHECKPOINT) from error


def _parsed(text: str, name: str = "tokenizer.json") -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{name} is no JSON: {error}", COMPLETE_CHECKPOINT) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} holds no JSON object", COMPLETE_CHECKPOINT)
    return content
