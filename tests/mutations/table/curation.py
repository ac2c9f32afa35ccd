"""Mutations of step1x_jax/curation/."""

from tests.mutations.suites import ENGINE, GATES
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/curation/captions/rounds.py", "tests/curation/captions/test_rounds.py"): [
        ("claims of one round stay", "Annotation.kept", "n >= needed", ""),
        ("what nobody confirms goes on", "Annotation.add", "*confirmed", "*self.latest"),
        ("numbers of nothing", "RoundReply.problem",
         "if not all(1 <= number <= given for number in self.confirmed):", "if False:"),
    ],
    ("step1x_jax/curation/chat/prompts.py", "tests/curation/captions/test_rounds.py"): [
        ("places in what models say", "fill_prompt",
         "values[match[1]]", "values[match[1]].replace('{most}', '12')"),
    ],
    ("step1x_jax/curation/chat/stage.py", "tests/curation/chat/test_plan_edits.py"): [
        ("replies of another revision", "_open_replies", "if revision:", "if False:"),
        ("no reply is a rejection", "Conversation.ask",
         "if answer.status == 'failed':", "if False:"),
        ("requests not counted", "Conversation.ask", "answer.paid", "0"),
    ],
    ("step1x_jax/curation/engine/stage.py", "tests/curation/chat/test_plan_edits.py"): [
        ("a failure is many rows", "outcomes_of",
         "made, Mapping | Rejected | Failed", "made, Mapping | Rejected"),
    ],
    ("step1x_jax/curation/chat/plan_edits.py", "tests/curation/chat/test_plan_edits.py"): [
        ("plans of any category", "PlanEdits._fits", "edit.category in self.categories", "True"),
        ("more edits than were asked for", "PlanEdits._fits", "len(plan.edits) <= self.count", ""),
        ("instructions in any language", "PlanEdits._planned",
         "check_english(edit.instruction)", ""),
        ("descriptions in any language", "PlanEdits._planned", "check_english(edit.target)", ""),
        ("tags are not told", "plan_text", "... if tags else ''", "''"),
        ("other words, the same plans", "PlanEdits.identity",
         "'prompts': digest_prompts(PROMPTS)", ""),
    ],
    ("step1x_jax/curation/chat/verdict.py", "tests/curation/chat/test_verdict.py"): [
        ("an edit of eleven of ten", "", "le=BEST", ""),
        ("not done, and a success", "VerdictReply.contradictory",
         "not self.done and self.success > MOST_UNDONE", "False"),
        ("the target is not shown", "Verdict", "'source', 'target'", "'source', 'source'"),
    ],
    ("step1x_jax/curation/sources/archives.py", "tests/curation/sources/test_archives.py"): [
        ("truncated pictures", "_samples", "if end > size:", "if False:"),
        ("links in archives", "_samples", "if not info.isreg():", "if info.isdir():"),
        ("damage is forgotten", "WebDataset.units", "if damage:", "if False:"),
    ],
    ("step1x_jax/curation/sources/folder.py", "tests/curation/sources/test_folder.py"): [
        ("changes not noticed", "_stamps", "_stamp(path)", ""),
        ("licences not noticed", "_stamps", "repr(said)", ""),
    ],
    ("step1x_jax/curation/sources/photograph_rows.py", "tests/curation/sources/test_folder.py"): [
        ("parts of any size", "cut", "total + size > UNIT_BYTES", ""),
    ],
    ("step1x_jax/curation/engine/ray_actors.py", "tests/curation/engine/test_ray.py"): [
        ("actors on every CPU", "", "LEFT_FREE = 1.0", "LEFT_FREE = 0.0"),
        ("actors without their GPU", "room_for", "if 0 in counts:", "if False:"),
    ],
    ("step1x_jax/curation/export.py", "tests/curation/test_choices.py"): [
        ("edits of both sides", "split_of", "if len(inside) > 1:", "if False:"),
        ("nothing left to train on", "choose_held_out", "max(len(ordered) - 1, 0)", "len(ordered)"),
        ("held out by order", "choose_held_out", "lambda group: _hash(f'{seed} {group}')", "str"),
    ],
    ("step1x_jax/curation/export.py", "tests/curation/stages/test_plain_edits.py"): [
        ("other groups held out", "export", "set(config.held_out_groups) or ...", "set() or ..."),
        ("groups that are not there", "export", "if unknown := ...:", "if False:"),
    ],
    ("step1x_jax/curation/stages/plain_edits.py", "tests/curation/stages/test_plain_edits.py"): [
        ("masks of all", "_outcome", "kind.local", "False"),
    ],
    ("step1x_jax/curation/sources/crops.py", "tests/curation/stages/test_plain_edits.py"): [
        ("squares alone", "EmbeddedCrops.read", "number % len(shapes)", "0"),
        ("held out trained on", "EmbeddedCrops.read", "name not in self.apart", ""),
        ("groups of crops", "EmbeddedCrops.read", "group=name", "group=row"),
    ],
    ("step1x_jax/curation/embedded/crops.py", "tests/curation/embedded/test_crops.py"): [
        ("never mirrored", "random_crop", "rng.random() < 0.5", "False"),
        ("textures as often", "draw_name", "RARE.get(name, 1.0)", "1.0"),
        ("sizes by rounding", "random_crop", "across, down, size", "*box, size"),
    ],
    ("step1x_jax/curation/sheet.py", "tests/curation/test_choices.py"): [
        ("one photograph after another", "choose", "queues.append(ids)", "queues.appendleft(ids)"),
    ],
    ("step1x_jax/curation/review.py", "tests/curation/test_choices.py"): [
        ("reasons of any kind", "read_verdicts", "verdict.reason in ('', *REASONS)", "True"),
    ],
    ("step1x_jax/curation/config.py", "tests/curation/test_config.py"): [
        ("settings of any type", "CurateConfig.validate",
         "check_fields(stage, 'the config', f'stages.{name}')", "pass"),
        ("languages of any kind", "ExportConfig.validate",
         "set(languages) <= set(LANGUAGES)", "True"),
    ],
    ("step1x_jax/curation/engine/driver.py", f"{ENGINE}/test_driver.py"): [
        ("seeds not in the fingerprint", "_plan", "str(pipeline.seed)", ""),
        ("decisions about other rows", "_plan", "digest_of(*inputs.values())", ""),
        ("failures are not tried again", "_plan",
         "if _Errors(name, pipeline.max_error_rate, done.values()).too_many:", "if False:"),
        ("any number of failures", "_Errors.too_many",
         "self._kinds.total() > self._most * self._worked", "False"),
        ("everything is made anew", "_make",
         "before is not None and before.stage == plan.own and not whole", "False and not whole"),
    ],
    ("step1x_jax/curation/engine/worker.py", f"{ENGINE}/test_driver.py"): [
        ("what may pass ends a row", "Worker._attempt",
         "if not isinstance(e, TRANSIENT) or failures >= ATTEMPTS:", "if True:"),
        ("one row fails its batch", "Worker._attempt", "if len(rows) > 1:", "if False:"),
        ("rows that are left out vanish", "Worker.make", "rows.append(self._carried(one))", "pass"),
        ("failures are kept", "_known",
         "not any(row[STATUS] == FAILED and row[STAGE] == name for row in rows)", "rows"),
        ("values of any type", "Worker._checked", "check_values(dict(columns), kinds)", "pass"),
    ],
    ("step1x_jax/curation/engine/workdir.py", f"{ENGINE}/test_crashes.py"): [
        ("two drivers", "Workdir.driving",
         "with exclusive(self.path / LOCK, message):", "with contextlib.nullcontext():"),
        ("parts without their files", "Workdir.parts",
         "if all(self._is_there(name, file) for file in part.files):", "if True:"),
        ("parts from elsewhere", "_in_place", "_FILE.fullmatch(file.file) is not None", "True"),
    ],
    ("step1x_jax/curation/engine/workdir.py", f"{ENGINE}/test_driver.py"): [
        ("files of dead workers stay", "Workdir.sweep",
         "_FILE.fullmatch(path.name) and path.name not in used", "False"),
        ("parts of what is gone", "Workdir.sweep", "set(parts) - set(keys)", "()"),
    ],
    ("step1x_jax/curation/embedded/gates.py", GATES): [
        ("changes beside the region", "check",
         "if not np.array_equal(edit.source[~mask], edit.target[~mask]):", "if False:"),
        ("edits that nobody sees", "check", "if change < LEAST_CHANGE:", "if False:"),
        ("regions of a pixel", "check", "if share < LEAST_REGION:", "if False:"),
        ("cameras that move", "moves", "foreground >= LEAST_FLOW_RATIO * background", ""),
        ("subjects that stand still", "moves", "foreground >= LEAST_MOVE * longer_side", ""),
        ("masks without depth", "mask_stability", "if disparity is not None:", "if False:"),
        ("every surface is flat", "plane_error", "return float(np.median(errors))", "return 0.0"),
        ("the best of the jitters", "mask_stability", "min(shares)", "max(shares)"),
    ],
}
