"""A line of input becomes work, an earlier result, or an error."""

from __future__ import annotations

from dataclasses import dataclass, field

from antangel_cli.batching.completion import ChatWork, answered, failed_request
from antangel_cli.batching.earlier import Earlier
from antangel_cli.batching.fingerprint import Fingerprint, Fingerprints
from antangel_cli.batching.ids import Ids
from antangel_cli.batching.openai_lines import BadRequestError, ChatRequest, read_request
from antangel_cli.batching.work import CaseWork, Done, Work, case_done, failed_line
from antangel_cli.case_lines import BadLineError, read_line, require_new
from antangel_cli.cases import CHECKED_SCHEMA, Checked
from antangel_cli.clinic.case import Case
from antangel_cli.clinic.diagnose import DiagnoseOptions, DiagnoseRun
from antangel_cli.clinic.model import Model
from antangel_cli.lines import Line
from antangel_cli.options import CaseOptions
from antangel_cli.outcome import describe
from antangel_cli.settings import Settings


@dataclass(frozen=True)
class Starter:
    """Begins lines. Without a model they are only checked; without `prints` they carry no fingerprint.

    `requests`: whether a line may be an OpenAI batch request.
    """

    settings: Settings
    asked: DiagnoseOptions
    options: CaseOptions
    model: Model | None
    prints: Fingerprints | None = None
    earlier: Earlier | None = None
    requests: bool = True
    seen: Ids = field(default_factory=Ids)

    def start(self, line: Line) -> Work | Done:
        """What a line begins, or what came of it at once."""
        try:
            request = read_request(line) if self.requests and self.options.input_format == "auto" else None
            return self._start_case(line) if request is None else self._start_request(request, line)
        except BadLineError as bad:
            if self.earlier is not None and bad.id is not None:
                self.earlier.drop(bad.id)
            failed = failed_request if isinstance(bad, BadRequestError) else failed_line
            return failed(bad.id, line.number, bad.reason, self._of_line(line))

    def _start_case(self, line: Line) -> Work | Done:
        case = read_line(line, self.options.input_format, self.seen, self.options.redact)
        try:
            return self._case(case, line)
        except Exception as error:
            raise BadLineError(case.id, describe(error)) from error

    def _case(self, case: Case, line: Line) -> Work | Done:
        if self.model is None:
            return case_done({**Checked.of(case, self.options.accept_implausible).record, "line": line.number})
        fingerprint = self._of(case.model_dump_json(by_alias=True, exclude={"gold"}))
        found = self.earlier.take(case.id, fingerprint) if self.earlier and fingerprint else None
        if found is not None:
            return case_done(found.record, offset=found.offset)
        return CaseWork(DiagnoseRun(case, self.asked, self.model), fingerprint)

    def _start_request(self, request: ChatRequest, line: Line) -> Work | Done:
        try:
            require_new(request.custom_id, line.number, self.seen)
            self.seen.add(request.custom_id)
            return self._request(request, line)
        except Exception as error:
            reason = error.reason if isinstance(error, BadLineError) else describe(error)
            raise BadRequestError(request.custom_id, reason) from error

    def _request(self, request: ChatRequest, line: Line) -> Work | Done:
        if self.model is None:
            checked = {"schema": CHECKED_SCHEMA, "id": request.custom_id, "status": "valid", "line": line.number}
            return Done(checked, "valid")
        fingerprint = self._of(request.canonical)
        found = self.earlier.take(request.custom_id, fingerprint) if self.earlier and fingerprint else None
        if found is not None:
            return answered(found.record, found.offset)
        return ChatWork(request, self.model, self.settings, self.options, fingerprint)

    def _of(self, text: str) -> Fingerprint | None:
        return None if self.prints is None else self.prints.fingerprint(text)

    def _of_line(self, line: Line) -> Fingerprint | None:
        """That of a line which could not be read: of its bytes."""
        data = b"line %d\0%b" % (line.number, line.data or b"")
        return None if self.prints is None else self.prints.fingerprint(data)
