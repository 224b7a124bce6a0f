"""`antangel schema`: the JSON Schemas, and filled examples."""

from __future__ import annotations

import json

from antangel_cli.clinic import schemas
from antangel_cli.files import STDIN, require_writable, write_whole
from antangel_cli.options import CaseOptions
from antangel_cli.settings import Settings
from antangel_cli.terminal import Terminal


def schema(settings: Settings, kind: str, example: bool, options: CaseOptions) -> int:
    """Print a schema, or an example in the language of `--lang`."""
    require_writable(options.output, options.force)
    chinese = (settings.lang or "en").startswith("zh")
    content = schemas.example(kind, chinese) if example else schemas.schema(kind)
    text = json.dumps(content, ensure_ascii=False, indent=2)
    if options.output is None or options.output == STDIN:
        Terminal.of(settings).answer(text)
    else:
        write_whole(options.output, f"{text}\n", options.force)
    return 0
