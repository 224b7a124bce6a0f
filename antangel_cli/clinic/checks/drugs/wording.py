"""The words for conflicts between drugs and a patient, in English and Chinese."""

from __future__ import annotations

_WORDS: dict[str, tuple[str, str]] = {
    "same": ("possible conflict: {drug}; allergy to {allergen}", "可能冲突：{drug}；对{allergen}过敏"),
    "class": (
        "possible conflict: {drug} is one of the {group}; allergy to {allergen}",
        "可能冲突：{drug}属于{group}；对{allergen}过敏",
    ),
    "cross": (
        "possible conflict: {drug}, one of the {group}; {strength} with the allergy to {allergen}",
        "可能冲突：{drug}属于{group}；与{allergen}过敏{strength}",
    ),
    "possible": ("possible cross-reaction", "可能交叉反应"),
    "weak": ("rare or disputed cross-reaction", "交叉反应少见或有争议"),
    "substance": (
        "possible conflict: {allergen}, to which an allergy is listed, is named",
        "可能冲突：提到已登记的过敏原{allergen}",
    ),
    "avoided": (" (named as one to avoid)", "（原文为避免使用）"),
    "not_recorded": ("{drug}: allergies not recorded", "{drug}：过敏史未记录"),
    "pregnancy_avoid": ("pregnant: {drug} is to be avoided; {why}", "妊娠：应避免{drug}；{why}"),
    "pregnancy_check": ("pregnant: check {drug}; {why}", "妊娠：须核对{drug}；{why}"),
    "pregnancy_radiation": (
        "pregnant: {drug} exposes to radiation; weigh it, shield, or look for another",
        "妊娠：{drug}有电离辐射；权衡、防护或另选",
    ),
    "pregnancy_unknown": ("{drug}: check pregnancy", "{drug}：先确认是否妊娠"),
}


def say(key: str, chinese: bool, **about: str) -> str:
    """A phrase of a conflict."""
    return _WORDS[key][chinese].format(**about)
