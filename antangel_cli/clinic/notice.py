"""What every answer says about itself, in English and Chinese."""

from __future__ import annotations

from antangel_cli.clinic.rules import rules_status

NOTICE = {
    "en": (
        "For clinicians: a second look at a case, not a diagnosis. "
        "It can be wrong or incomplete; the clinician decides."
    ),
    "zh": "供临床医生参考：对病例的再次梳理，并非诊断。内容可能有误或不全，由医生作决定。",
}
"""One line, shown at start and carried in every result."""

DEMONSTRATION = {
    "en": "DEMONSTRATION: a small embedded model trained on invented cases answers. Not for any patient.",
    "zh": "演示 (DEMONSTRATION)：由内置的小型演示模型作答，仅用虚构病例训练，不可用于任何患者。",
}
"""The first line of every page that the demonstration model wrote."""

RULES_STATUS = {"en": rules_status(chinese=False), "zh": rules_status(chinese=True)}
"""Which rules ran, and whether a clinician has reviewed them."""
