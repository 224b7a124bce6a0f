"""The words for what readers left out or wondered about, in English and Chinese."""

from __future__ import annotations

READER_WARNINGS: dict[str, tuple[str, str]] = {
    "identifiers_dropped": (
        "identifying fields were dropped: {kinds}",
        "已去除{count}处身份信息：{kinds}",
    ),
    "identifiers_removed": (
        "identifiers in free text were replaced by [removed], others may remain: {kinds}",
        "已将自由文本中{count}处身份信息替换为[removed]，可能仍有遗漏：{kinds}",
    ),
    "resources_unread": (
        "left out, of kinds that are not read: {kinds}",
        "{count}项属不读取的类型：{kinds}",
    ),
    "entered_in_error": (
        "left out, marked as entered in error: {kinds}",
        "已略去{count}项标记为错误的记录：{kinds}",
    ),
    "not_taken": (
        "left out, planned, cancelled or not to be done: {kinds}",
        "已略去{count}项仅为计划或不作数的记录：{kinds}",
    ),
    "modifier_unknown": (
        "left out, with a modifier that is not understood: {kinds}",
        "已略去{count}项含无法理解的修饰的记录：{kinds}",
    ),
    "about_another": (
        "left out, about someone or something other than the patient: {kinds}",
        "已略去{count}项对象并非患者本人的记录：{kinds}",
    ),
    "without_content": (
        "nothing that can be read is stated by: {kinds}",
        "{count}项没有可读取的内容：{kinds}",
    ),
    "older_left_out": (
        "left out, older than the newest of its kind: {kinds}",
        "每项只保留最新，已略去{count}项较早的记录：{kinds}",
    ),
    "told_as_history": (
        "told as history, from before this encounter: {kinds}",
        "{count}项本次就诊之前的数值列为既往：{kinds}",
    ),
    "notes_cut": (
        "long notes were cut at 2,000 characters: {kinds}",
        "{count}处附注超过2000字，已截断：{kinds}",
    ),
    "attachments_unread": (
        "attachments that are no plain text were not read: {kinds}",
        "未读取{count}个非纯文本附件：{kinds}",
    ),
    "units_contradict": (
        "unit and unit code differ, so the value counts as without unit: {kinds}",
        "{count}项数值的单位与单位编码不一致，按无单位处理：{kinds}",
    ),
    "narrative_hidden": (
        "passages that a reader would not see were left out: {kinds}",
        "{count}处文字含不可见段落：{kinds}",
    ),
    "allergies_contradict": (
        "allergies are recorded beside a statement that there are none",
        "既记录了过敏又记录无过敏",
    ),
    "sex_from_gender": (
        "the sex is the administrative gender; sex at birth is not recorded",
        "性别取自行政性别，未记录出生性别",
    ),
    "age_unknown": (
        "the age cannot be computed: a birth date or the date of the encounter is missing",
        "无法计算年龄：缺少出生日期或就诊日期",
    ),
    "age_approximate": (
        "the age is approximate: the birth date is not complete",
        "年龄为近似值：出生日期不完整",
    ),
    "deceased": ("the patient is recorded as deceased", "记录显示患者已死亡"),
}
"""By code; `kinds` names fields and resource types with their counts, never what they say."""
