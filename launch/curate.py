"""Make edits of photographs, from sources to lists and records: launch/guides/curate.md.

python -m launch.curate run --config=configs/curate_embedded.py --workdir=runs/curate
python -m launch.curate stats --config=configs/curate_embedded.py --workdir=runs/curate

run: all stages, or what is left of them; may be interrupted and started again. status: what is
done. stats: how many edits each stage left, and why. sheet: examples. review: a page to judge edits
on. export: lists for launch.precompute, and records if the config names models.
"""

import contextlib
import sys

from absl import flags
from tqdm import tqdm

from launch.curation import flags as curate_flags
from launch.curation import results as curate_results
from launch.curation.editor import give_editors
from launch.curation.flags import ACTORS, ADDRESS, ENGINE, WORKDIR, read_config
from launch.shared.command import run
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.engine import driver
from step1x_jax.curation.engine.driver import StagePlan
from step1x_jax.curation.engine.engine import Engine, Inline
from step1x_jax.curation.engine.ray_actors import ray_engine
from step1x_jax.curation.engine.workdir import CONFIG, Part, Workdir
from step1x_jax.errors import UserError
from step1x_jax.files import user_path
from step1x_jax.json_files import write_json

flags.adopt_module_key_flags(curate_flags)


def main(action: str) -> int:
    """Do what is asked for."""
    config = read_config()
    give_editors(config)
    workdir = Workdir(user_path(WORKDIR.value))
    if ADDRESS.value and ENGINE.value != "ray":
        raise UserError("--ray_address is of --engine=ray; give both.")
    return ACTIONS[action](config, workdir)


def run_all(config: CurateConfig, workdir: Workdir) -> int:
    """Make what is not there, with a bar for each stage."""
    for name, stage in config.pipeline().named.items():
        print(f"{name}: {stage}", file=sys.stderr)
    with workdir.driving(), contextlib.ExitStack() as end:
        write_json(workdir.path / CONFIG, config.describe())
        engine: Engine = Inline()
        if ENGINE.value == "ray":
            engine = end.enter_context(ray_engine(ADDRESS.value, ACTORS.value))
        bars: list[tqdm] = []

        def on_stage(plan: StagePlan) -> None:
            for bar in bars:
                bar.close()
            total, done = len(plan.wanted), len(plan.done)
            bars.append(tqdm(desc=plan.name, total=total, initial=done, unit="part"))
            end.callback(bars[-1].close)

        def on_part(plan: StagePlan, part: Part) -> None:
            bars[-1].update()

        driver.run(config.pipeline(), workdir, engine, on_stage, on_part)
    return 0


def tell_status(config: CurateConfig, workdir: Workdir) -> int:
    """Print what is done of each stage."""
    if workdir.driven:
        print("a process is at work here")
    names = list(config.pipeline().named)
    for plan in driver.plans(config.pipeline(), workdir):
        names.remove(plan.name)
        failed = sum(part.failures for part in plan.done.values())
        rest = f", {failed} rows failed" if failed else ""
        print(f"{plan.name}: {len(plan.done)} of {len(plan.wanted)} parts{rest}")
    for name in names:
        print(f"{name}: not begun with these settings")
    return 0


ACTIONS = {
    "run": run_all,
    "status": tell_status,
    "stats": curate_results.tell_stats,
    "sheet": curate_results.make_sheet,
    "review": curate_results.make_review,
    "export": curate_results.export_all,
}

if __name__ == "__main__":
    run(main, tuple(ACTIONS))
