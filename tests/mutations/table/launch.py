"""Mutations of launch/."""

from tests.mutations.suites import EDIT, FAILING, LISTS, MANY, MASKS, REFUSED, RESUMED
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("launch/shared/typed_config.py", "tests/launch/test_train.py"): [
        ("flags do not count", "read_typed",
         "override(config, config_flags.get_override_values(flag))", "config"),
        ("a line of a dataclass", "_say_where", "own or frames", "frames"),
        ("any kind of config", "read_typed",
         "if not isinstance(config, config_class):", "if False:"),
    ],
    ("launch/edits/check.py", "tests/launch/test_edit_check.py"): [
        ("differences are success", "print_findings", "return ERROR", "return 0"),
        ("nothing to report", "print_findings", "if counts[DIFFERS]:", "if False:"),
    ],
    ("launch/edits/rows.py",
     f"{LISTS} {REFUSED} {MANY}::test_all_pictures_of_a_folder "
     f"{MANY}::test_rows_have_settings_of_their_own"): [
        ("the root ignored", "read_rows", "root is None", "True"),
        ("hidden pictures", "pictures_in", "folder, '[!.]*'", "folder, '*'"),
        ("first instruction for all", "_for_each", "if len(values) != count:", "if False:"),
    ],
    ("launch/edits/plan.py",
     f"{LISTS} {REFUSED} {EDIT} {RESUMED} {MASKS} {MANY}::test_rows_have_settings_of_their_own"): [
        ("results replaced unasked", "still_to_make", "if others and not overwrite:", "if False:"),
        ("results of other settings stay", "still_to_make", "missing.append(job)", "pass"),
        ("all made again", "still_to_make", "is_file(job.output)", "False"),
        ("two results of one name", "plan", "if name in taken:", "if False:"),
        ("sources overwritten", "check_places",
         "if _identity(os.fspath(job.output)) in read:", "if False:"),
        ("hard links overwritten", "_identity",
         "(status.st_dev, status.st_ino)", "os.path.realpath(path)"),
        ("row's steps ignored", "recipe_of",
         "common.steps if row.steps is None else row.steps", "common.steps"),
        ("masks not noted", "recipe_of",
         "noted_file(row.mask, 'a mask') if row.mask else None", "None"),
    ],
    ("launch/edits/making.py",
     f"{FAILING} {MASKS} {MANY}::test_like_makes_the_same_picture "
     f"{MANY}::test_speed_is_noted_and_made_again"): [
        ("one failure ends all", "make_all", "if report is None:\n    raise", "raise"),
        ("failures are success", "make_all", "return SOME_FAILED", "return 0"),
        ("settings not noted", "_make", "to_note(recipe)", ""),
        ("mask not given on", "_make", "mask=job.row.mask", "mask=None"),
        ("truncation not given on", "_make", "truncate=recipe.truncate", ""),
        ("speed not given on", "_make", "speed=recipe.speed", ""),
    ],
    ("launch/edits/report.py", f"{FAILING} {RESUMED}"): [
        ("reports forget", "EditReport.__init__", "if is_file(self.path):", "if False:"),
        ("reports of the last alone", "EditReport.add",
         "self._lines.values()", "[*self._lines.values()][-1:]"),
    ],
    ("launch/edit.py",
     f"{REFUSED} {RESUMED} {MANY}::test_like_makes_the_same_picture "
     f"{MANY}::test_like_with_another_source_or_other_weights_is_said "
     f"{MANY}::test_speed_is_noted_and_made_again"): [
        ("like over flags", "take_from", "if not flags.FLAGS[name].present:", "if True:"),
        ("one file replaced unasked", "check_new",
         "if is_file(place) and not _OVERWRITE.value:", "if False:"),
        ("loaded for nothing", "main", "if not todo:\n    return 0", "pass"),
        ("like's truncation forgotten", "take_from", "'truncate': like.truncate", ""),
        ("other files unsaid", "tell_of",
         "name in (*FILES, 'plan')", "False"),
        ("another plan unsaid", "tell_of", "name in (*FILES, 'plan')", "name in FILES"),
        ("like's speed forgotten", "take_from", "'speed': like.speed", ""),
    ],
    ("launch/speeds/edits.py", "tests/launch/test_speeds.py"): [
        ("to the mode before instead of the exact one", "compare",
         "exact, before = (exact or made, before or true)", "exact, before = (made, true)"),
        ("gains are losses", "compare", "b - a", "a - b"),
        ("rows have their own settings", "read_edits",
         "if getattr(row, name) is not None:", "if False:"),
        ("one seed for all edits", "read_edits", "dataclasses.replace(row, seed=number)",
         "dataclasses.replace(row, seed=0)"),
        ("share of the plan before it is fitted", "_fitted",
         "plan.fitted(times, settings.truncate)", "plan"),
    ],
    ("launch/calibrate.py", "tests/launch/test_speeds.py"): [
        ("the worst is stored", "best", "errors[name].psnr_mean + errors[name].psnr_worst",
         "-errors[name].psnr_mean"),
        ("plans replaced unasked", "_folder",
         "is_file(folder / FILE) and not _OVERWRITE.value", "False"),
        ("stored in the package", "_folder",
         "if not _OUTPUT.value and _MODEL.value == NAME:", "if False:"),
    ],
    ("launch/benches/sample.py", "tests/launch/test_bench_sample.py"): [
        ("held at all steps", "held", "i % 2 == 0 or i >= last", "i % 2 == 0"),
    ],
}
