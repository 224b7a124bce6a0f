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
    "range_reversed": ("the reference range of {path} is upside down", "{path}的参考范围上下限颠倒"),
    "flag_contradicts": ("the flag of {path} does not go with its reference range", "{path}的标志与参考范围不符"),
    "pregnancy_age": (
        "{path} states a pregnancy at an age at which none is expected",
        "{path}记录了妊娠，但年龄不在常见范围",
    ),
    "pregnancy_told_male": ("{path} states a pregnancy, and the patient is male", "{path}提及妊娠，但患者为男性"),
    "growth_for_age": ("{path} is hardly possible at this age", "{path}与年龄极不相符"),
    "time_before_birth": ("{path} has a time before birth, by the age given", "按所给年龄，{path}的时间早于出生"),
    "time_in_future": ("{path} has a time in the future", "{path}的时间在未来"),
    "consciousness_contradicts": (
        "the level of consciousness in {path} does not go with the Glasgow coma score in {other}",
        "{path}的意识状态与{other}的格拉斯哥昏迷评分不符",
    ),
    "values_differ": ("{path} and {other} differ at the same time", "{path}与{other}同一时间数值不同"),
    "present_and_absent": (
        "{path} and {other} state one finding as present and as absent",
        "{path}与{other}对同一项有无矛盾",
    ),
    "negated_twice": ("{path} is negated by its words and by its status", "{path}的文字与状态双重否定"),
    "medication_contradicts": (
        "{path} and {other} are one drug, stopped and active",
        "{path}与{other}为同一药物，一为停用一为在用",
    ),
    "age_differs": ("{path} states another age than patient.age", "{path}所述年龄与patient.age不同"),
    "sex_differs": ("{path} states another sex than patient.sex_at_birth", "{path}所述性别与patient.sex_at_birth不同"),
    "pregnant_male": ("pregnancy is recorded for a male", "男性记录了妊娠"),
    "age_impossible": ("the age is above 125 years; no rule uses it", "年龄超过125岁，未用于规则"),
    "identifier_in_text": (
        "{path} may identify the patient ({kind}); --redact removes what is recognised",
        "{path}可能含身份信息（{kind}）；--redact可去除能识别的部分",
    ),
    "read_from_text": ("read from text: {quantity} {value}", "由文字读取：{quantity} {value}"),
}

READ: dict[str, tuple[str, str]] = {
    "age": ("age", "年龄"),
    "sex": ("sex", "性别"),
    "pregnancy": ("pregnancy", "妊娠"),
    "weight": ("weight", "体重"),
    "height": ("height", "身高"),
    "region": ("region", "地区"),
    "temperature": ("temperature", "体温"),
    "pulse": ("pulse", "脉搏"),
    "respiratory_rate": ("respiratory rate", "呼吸频率"),
    "spo2": ("SpO2", "血氧饱和度"),
    "systolic_bp": ("systolic blood pressure", "收缩压"),
    "diastolic_bp": ("diastolic blood pressure", "舒张压"),
    "glucose": ("glucose", "血糖"),
    "gcs": ("Glasgow coma score", "格拉斯哥昏迷评分"),
    "supplemental_oxygen": ("supplemental oxygen", "吸氧情况"),
    "consciousness": ("consciousness", "意识"),
    "room air": ("room air", "未吸氧"),
    "oxygen given": ("oxygen given", "吸氧"),
    "alert": ("alert", "清醒"),
    "not alert": ("not alert", "不清醒"),
}
"""What is read from text, and the states it is in, as a person says them."""

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
    if warning["code"] == "read_from_text":
        words = {part: READ.get(warning[part], (warning[part],) * 2)[chinese] for part in ("quantity", "value")}
        warning = {**warning, **words}
    return WARNINGS[warning["code"]][chinese].format(**warning)
