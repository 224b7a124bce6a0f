"""`antangel about`: what this is and is not, which model answers, what nobody has reviewed, and where files lie."""

from __future__ import annotations

import json
import os

from antangel_cli import __version__, source
from antangel_cli.clinic.notice import NOTICE, RULES_STATUS
from antangel_cli.places import HOMES, home
from antangel_cli.settings import Settings, config_files
from antangel_cli.terminal import Terminal

INTENDED_USE = {
    "en": (
        "For clinicians and clinical informaticians who look at a case a second time. It is not for patients, not for "
        "emergencies in which an answer is awaited, and not a medical device: it has no approval of any authority, and "
        "no clinical study of it exists. It diagnoses nobody, prescribes nothing, and replaces no examination. "
        "What it was not able to check is listed under every answer."
    ),
    "zh": (
        "供临床医生及临床信息人员对病例作再次梳理。不供患者使用，不用于等待结果的急救场合，也不是医疗器械："
        "未经任何主管部门批准，亦无临床研究。不作诊断，不开处方，不能代替检查。未能核查的内容列于每份结果之下。"
    ),
}
MAKERS = {
    "en": (
        "Made by the antangel project. The model AntAngelMed is made by others, who publish no statement of intended "
        "use; antangel is not made, reviewed or endorsed by them."
    ),
    "zh": "由 antangel 项目制作。AntAngelMed 模型由他人制作，其作者未发布用途说明；antangel 并非由其制作、审阅或认可。",
}
LICENCES = {
    "en": "Licence: Apache-2.0. What it runs on: THIRD_PARTY.md in the source. A model has a licence of its own.",
    "zh": "许可证：Apache-2.0。所依赖的软件及其许可证见源代码中的 THIRD_PARTY.md。模型另有其许可证。",
}
PRIVACY = {
    "en": (
        "Nothing leaves this machine. Of a patient nothing is kept unless you ask for it: with -o, --trace, "
        "or a chat's session. The audit log holds codes and hashes, and no words of a case."
    ),
    "zh": (
        "任何内容都不会离开本机。除非您要求（用 -o、--trace 或对话的会话），不保存患者的任何信息。"
        "审计日志只含代码和哈希值，不含病例的文字。"
    ),
}


def about(settings: Settings) -> int:
    """Print all of it; in one language with `--json`'s keys, in both on a page."""
    terminal = Terminal.of(settings)
    model, remedy = source.described(settings)
    if settings.json:
        facts = {
            "version": __version__, "notice": NOTICE, "intended_use": INTENDED_USE, "makers": MAKERS, "model": model,
            "rules": RULES_STATUS, "privacy": PRIVACY, "licence": LICENCES, "files": _places(),
        }  # fmt: skip
        terminal.answer(json.dumps(facts, ensure_ascii=False))
        return 0
    said = [
        text for texts in (NOTICE, INTENDED_USE, MAKERS, RULES_STATUS, PRIVACY, LICENCES) for text in texts.values()
    ]
    places = terminal.rows("Files", list(_places().items()))
    terminal.prose("\n\n".join([f"antangel {__version__}", *said, f"Model: {_line(model)}\n{remedy}".rstrip(), places]))
    return 0


def _places() -> dict[str, str]:
    """Where files lie, by what they are for."""
    found = {f"{name} settings": str(path) for name, path in config_files(os.environ).items()}
    return found | {use: str(home(use)) for use in HOMES if use != "config"}


def _line(model: dict[str, object]) -> str:
    if model["name"] is None:
        return f"none. {model['problem']}"
    kind = "DEMONSTRATION only, not for use on patients" if model["demonstration"] else "configured"
    return f"{model['name']} ({kind}), {model['path']}"
