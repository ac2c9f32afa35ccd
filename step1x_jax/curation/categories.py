"""The 11 kinds of edits, as the paper has them and GEdit-Bench spells them."""

import enum


class Category(enum.StrEnum):
    """What an edit changes; the value is the benchmark's spelling."""

    BACKGROUND_CHANGE = "background_change"
    COLOR_ALTER = "color_alter"
    MATERIAL_ALTER = "material_alter"
    MOTION_CHANGE = "motion_change"
    PS_HUMAN = "ps_human"
    STYLE_CHANGE = "style_change"
    SUBJECT_ADD = "subject-add"
    SUBJECT_REMOVE = "subject-remove"
    SUBJECT_REPLACE = "subject-replace"
    TEXT_CHANGE = "text_change"
    TONE_TRANSFER = "tone_transfer"
