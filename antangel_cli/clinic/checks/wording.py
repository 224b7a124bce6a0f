"""The words for what checks report by code, in English and Chinese."""

from __future__ import annotations

from typing import Any

from antangel_cli.clinic.reader_warnings import READER_WARNINGS

WARNINGS: dict[str, tuple[str, str]] = READER_WARNINGS | {
    "dropped_control": ("{count} control characters were dropped", "已去除{count}个控制字符"),
    "dropped_zero_width": ("{count} zero-width characters were dropped", "已去除{count}个零宽字符"),
    "dropped_bidi": ("{count} text-direction characters were dropped", "已去除{count}个文字方向控制符"),
    "dropped_tag": ("{count} invisible tag characters were dropped", "已去除{count}个隐藏标签字符"),
    "unit_missing": ("{path} has no unit; no rule uses it", "{path}无单位，未用于规则"),
    "unit_unknown": (
        "{path} has a unit that is not known; no rule uses it",
        "{path}的单位无法识别，未用于规则",
    ),
    "unit_ambiguous": (
        "{path} has a unit that can mean two things; no rule uses it",
        "{path}的单位含义不明确，未用于规则",
    ),
    "decimal_comma": (
        "{path} is written with a comma; it is not read as a number",
        "{path}含逗号，未作为数字读取",
    ),
    "not_a_number": ("{path} is no number; no rule uses it", "{path}不是数字，未用于规则"),
    "pressure_unread": (
        "{path} is no pressure like 120/80; no rule uses it",
        "{path}不是如120/80的血压，未用于规则",
    ),
    "word_unread": (
        "{path} is not one of the words known; it counts as not recorded",
        "{path}的取值无法识别，按未记录处理",
    ),
    "time_unclear": ("{path} has a time without a clear day and hour", "{path}的时间不明确"),
    "extreme": ("{path} is extreme: {value}", "{path}为极端值：{value}"),
    "pressures_swapped": ("systolic pressure is not above diastolic", "收缩压不高于舒张压"),
    "pregnant_male": ("pregnancy is recorded for a male", "男性记录了妊娠"),
    "age_impossible": ("the age is above 125 years; no rule uses it", "年龄超过125岁，未用于规则"),
    "identifier_in_text": (
        "{path} may identify the patient ({kind}); --redact removes what is recognised",
        "{path}可能含身份信息（{kind}）；--redact可去除能识别的部分",
    ),
    "read_from_text": ("read from text: {quantity} {value}", "由文字读取：{quantity} {value}"),
}

NOT_RUN: dict[str, tuple[str, str]] = {
    "news2": ("NEWS2", "NEWS2"),
    "lactation": ("drugs while breastfeeding", "哺乳期用药"),
    "interactions": ("drug interactions", "药物相互作用"),
    "organ_dosing": ("renal and hepatic dosing", "肝肾功能剂量调整"),
    "codes": ("whether codes mean what is named", "编码与名称是否相符"),
    "paediatric": ("vital signs against the limits of the age", "按年龄范围核对生命体征"),
    "paediatric_score": ("a paediatric early warning score such as PEWS", "儿童早期预警评分（如PEWS）"),
    "obstetric_score": ("an early warning score in pregnancy", "孕期早期预警评分"),
}

REASONS: dict[str, tuple[str, str]] = {
    "no_table": ("this version has no table for it", "本版本无相应数据表"),
    "listed_only": ("only whether ICD-10-CM lists them was checked", "仅检查了是否列于ICD-10-CM"),
    "not_built": ("this version does not do it", "本版本尚未提供"),
    "bands_only": ("single vital signs are compared with the limits of the age only", "仅将各项生命体征与年龄范围比较"),
    "no_vitals": ("no vitals", "无生命体征"),
    "age_unknown": ("the age is not known", "年龄未知"),
    "age_impossible": ("the age is impossible", "年龄不可能"),
    "under_16": ("under 16 years", "不足16岁"),
    "pregnant": ("pregnant", "妊娠"),
}


def warning_message(warning: dict[str, Any], chinese: bool) -> str:
    """A warning in words."""
    return WARNINGS[warning["code"]][chinese].format(**warning)
