"""One request on its way through its stages: what each new token means for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

from runtime.errors import AntangelError
from runtime.grammar import Constraint, GrammarCompiler
from runtime.request import NO_TOKEN, Finish, Request, Stage, TokenEvent
from runtime.sampling import Row, TokenHistory
from runtime.scheduler import Commit
from runtime.sequence import Sequence
from runtime.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class PreparedStage:
    """A stage with its prefix tokenised and its schema compiled."""

    stage: Stage
    prefix_ids: tuple[int, ...]
    constraint: Constraint | None


@dataclass(frozen=True)
class Draft:
    """What the MTP layer expects at a position."""

    position: int
    token_id: int


@dataclass(slots=True)  # one a token: frozen ones take four times as long to make
class Advance:
    """What a token leads to: the change of its sequence, and what is told."""

    commit: Commit
    events: list[TokenEvent]
    forced: int = 0


def prepare(request: Request, tokenizer: Tokenizer, compiler: GrammarCompiler) -> tuple[PreparedStage, ...]:
    """Everything about a request that can fail, before it is queued. Raises GrammarError."""
    return tuple(
        PreparedStage(
            stage,
            tuple(tokenizer.encode_trusted(stage.prefix)),
            compiler.constraint(stage.schema) if stage.schema is not None else None,
        )
        for stage in request.stages
    )


def tokens_needed(request: Request, stages: tuple[PreparedStage, ...]) -> int:
    """The most tokens the request can come to."""
    return len(request.prompt_ids) + sum(len(s.prefix_ids) + s.stage.max_tokens for s in stages)


class Generation:
    """The stages of one sequence, and how far the current one has come.

    It reads the sequence and says what should become of it; the scheduler does that.
    """

    def __init__(
        self,
        sequence: Sequence,
        stages: tuple[PreparedStage, ...],
        tokenizer: Tokenizer,
        stop_token_ids: Collection[int],
        *,
        submitted: float,
        deadline: float | None = None,
        use_forced: bool = True,
    ) -> None:
        self.sequence = sequence
        self.submitted = submitted
        self.deadline = deadline
        self.index = 0
        self.draft: Draft | None = None
        self.saw_token = False
        self._stages = stages
        self._tokenizer = tokenizer
        self._stop_token_ids = frozenset(stop_token_ids)
        self._use_forced = use_forced
        self._history = TokenHistory()
        self._begin(start=len(sequence.token_ids) + len(stages[0].prefix_ids))

    @property
    def is_plain_greedy(self) -> bool:
        """Whether its tokens are the model's own first choice."""
        return self.stage.params.temperature == 0 and self.constraint is None

    def start(self) -> Advance:
        """The first stage's prefix, and the tokens its grammar forces at once."""
        edit = _Edit(len(self.sequence.token_ids))
        edit.append.extend(self._stages[0].prefix_ids)
        return self._take_in(edit, deque())

    def advance(self, token_id: int) -> Advance:
        """Takes in a sampled token. GrammarError when its grammar can't go on."""
        return self._take_in(_Edit(len(self.sequence.token_ids)), deque((token_id,)))

    def row(self) -> Row:
        """What the sampler must know. Raises GrammarError when the grammar allows no token."""
        params = self.stage.params
        seen = self._history.follow(self.sequence.token_ids) if params.repetition_penalty != 1 else None
        allowed = self.constraint.mask() if self.constraint else None
        return Row(params, self.index, len(self.sequence.token_ids), seen, allowed)

    def interrupt(self, reason: Finish, error: AntangelError | None = None) -> TokenEvent:
        """The last event of a request that ends here and now, with what text was held back."""
        message = error.message if error else None
        return TokenEvent(self.sequence.id, self.index, NO_TOKEN, self._decoder.finish(), reason, reason, message)

    def fail(self, error: AntangelError) -> Advance:
        return Advance(Commit(self.sequence.id, finished=True), [self.interrupt("error", error)])

    def _begin(self, start: int) -> None:
        """Starts the current stage behind `start` tokens."""
        self.stage = self._stages[self.index].stage
        self.constraint = self._stages[self.index].constraint
        self._start = start
        self._tokens: list[int] = []
        self._max_tokens = min(self.stage.max_tokens, self.sequence.limit - start)
        self._decoder = StreamDecoder(self._tokenizer, self.stage.stop)

    def _take_in(self, edit: _Edit, queue: deque[int]) -> Advance:
        """Takes in the queued tokens and whatever grammars force after them."""
        events: list[TokenEvent] = []
        forced = 0
        while True:
            if not queue and self._use_forced and self.constraint:
                queue.extend(self.constraint.forced())
                forced += len(queue)
            if not queue:
                return Advance(edit.commit(self.sequence.id), events, forced)
            token_id = queue.popleft()
            finish, text = self._take(token_id, edit)
            events.append(self._told(token_id, text, finish, edit))
            if finish:
                forced -= len(queue)
                queue.clear()
            if events[-1].finish:
                return Advance(Commit(self.sequence.id, finished=True), events, forced)

    def _take(self, token_id: int, edit: _Edit) -> tuple[Finish | None, str]:
        """Whether this token ends the stage, and the text that it makes certain."""
        if token_id in self._stop_token_ids and not self.stage.params.ignore_eos:
            return "stop", self._decoder.finish()
        edit.append.append(token_id)
        self._tokens.append(token_id)
        if self.constraint:
            self.constraint.accept(token_id)
        text = self._decoder.push(token_id)
        if self._decoder.stopped:
            return "stop", text
        if self.constraint and self.constraint.finished:
            return "stop", text + self._decoder.finish()
        if len(self._tokens) >= self._max_tokens:
            return "length", text + self._decoder.finish()
        return None, text

    def _told(self, token_id: int, text: str, finish: Finish | None, edit: _Edit) -> TokenEvent:
        """The event of a token; where it ends a stage, the next one is begun."""
        stage = self.index
        ended = finish if finish and not self._next_stage(edit) else None
        return TokenEvent(self.sequence.id, stage, token_id, text, ended, finish)

    def _next_stage(self, edit: _Edit) -> bool:
        """Leaves exactly the text of this stage, then the next one's prefix; False when nothing follows."""
        if self.index + 1 == len(self._stages):
            return False
        count, rest = whole_tokens(self._tokens, self._decoder.text_bytes, self._tokenizer)
        edit.cut(self._start + count)
        edit.append.extend(self._tokenizer.encode_bytes(rest))
        self.index += 1
        edit.append.extend(self._stages[self.index].prefix_ids)
        self._history = TokenHistory()
        self.draft = None
        # A tail that was tokenised again can be a few tokens longer than before, which nobody planned for.
        if edit.length >= self.sequence.limit:
            return False
        self._begin(start=edit.length)
        return True


class _Edit:
    """A change of a sequence in the making: what is put behind the tokens that stay."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._keep: int | None = None
        self.append: list[int] = []

    @property
    def length(self) -> int:
        return self._kept + len(self.append)

    @property
    def _kept(self) -> int:
        return self._length if self._keep is None else self._keep

    def cut(self, length: int) -> None:
        if length <= self._kept:
            self._keep = length
            self.append.clear()
        del self.append[length - self._kept :]

    def commit(self, sequence_id: int) -> Commit:
        return Commit(sequence_id, tuple(self.append), self._keep)


def whole_tokens(token_ids: list[int], cut: int, tokenizer: Tokenizer) -> tuple[int, bytes]:
    """How many tokens lie before byte `cut` and end with a character, and the bytes from there to it."""
    pieces = [tokenizer.token_bytes(token_id) for token_id in token_ids]
    data = b"".join(pieces)
    ends = [0, *accumulate(map(len, pieces))]
    fitting = (i for i in reversed(range(len(ends))) if ends[i] <= cut and _starts_character(data, ends[i]))
    count = next(fitting, 0)
    return count, data[ends[count] : cut]


def _starts_character(data: bytes, at: int) -> bool:
    return at == len(data) or data[at] & 0xC0 != 0x80
