"""Outputs of launch.curate for a finished run: figures, sheets, lists, records."""

import dataclasses
import hashlib
import json
import sys
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from launch.curation.flags import EACH, FIGURES, JSON, OUTPUT
from launch.shared.exit_codes import SOME_FAILED
from launch.shared.record_models import load_models
from step1x_jax.curation import figures, review, sheet, stats
from step1x_jax.curation.config import CurateConfig
from step1x_jax.curation.engine.workdir import MANIFEST, Workdir
from step1x_jax.curation.export import HELD_OUT, TRAIN, export
from step1x_jax.curation.results import EDIT, Results
from step1x_jax.curation.review import Review
from step1x_jax.data.chunks import Input
from step1x_jax.data.manifest import BadRow
from step1x_jax.data.precompute import make_settings, precompute
from step1x_jax.data.sources import read_triplets
from step1x_jax.files import replacing, user_path
from step1x_jax.parallel.mesh import MeshConfig, make_mesh

SHEET_EACH = 2  # edits of a category


def tell_stats(config: CurateConfig, workdir: Workdir) -> int:
    """Print how many edits there are, of which kind, and why others were left out."""
    counted = stats.count(config.pipeline(), workdir)
    if FIGURES.value:
        figures.draw_all(counted, user_path(FIGURES.value))
    if JSON.value:
        print(json.dumps(counted, indent=1, ensure_ascii=False))
        return 0
    for line in stats.table(counted):
        print(line)
    return 0


def output_or(workdir: Workdir, name: str) -> epath.Path:
    """The folder of --output, or one in the run's folder."""
    return epath.Path(user_path(OUTPUT.value)) if OUTPUT.value else workdir.path / name


def make_sheet(config: CurateConfig, workdir: Workdir) -> int:
    """Write examples as a picture and as a page."""
    results = Results(config.pipeline(), workdir)
    chosen = sheet.examples(results, EACH.value or SHEET_EACH, config.seed)
    folder = output_or(workdir, "sheet")
    with replacing(folder / "sheet.png") as temporary, temporary.open("wb") as file:
        sheet.draw(chosen).save(file, format="png")
    with replacing(folder / "sheet.html") as temporary:
        temporary.write_text(sheet.page(chosen, f"{len(chosen)} edits"))
    print(f"{len(chosen)} edits in {folder}/sheet.png and {folder}/sheet.html")
    if not sheet.shows_chinese(chosen):
        print("No font with Chinese characters was found: sheet.png shows English alone.")
    return 0


def make_review(config: CurateConfig, workdir: Workdir) -> int:
    """Write the page with the edits that come to the review."""
    pipeline = config.pipeline()
    before = {}
    for name, stage in pipeline.stages.items():
        if isinstance(stage, Review):
            break
        before[name] = stage
    results = Results(dataclasses.replace(pipeline, stages=before), workdir)
    chosen = None
    if EACH.value:
        columns = {"category": str, "group": str, "groups": list[str]}
        chosen = set(sheet.choose(results.accepted(columns), EACH.value, config.seed))
    folder = output_or(workdir, "review")
    count = review.write_page(results.accepted(EDIT, chosen), folder)
    print(
        f"{count} edits in {folder}/index.html; a Review in the config's stages reads what the page"
        " saves: --config.stages.review.verdicts=verdicts.jsonl"
    )
    return 0


def export_all(config: CurateConfig, workdir: Workdir) -> int:
    """Write lists of edits, and records of them if the config names models."""
    results = Results(config.pipeline(), workdir)
    folder = output_or(workdir, "export")
    manifest = hashlib.sha256((workdir.path / MANIFEST).read_bytes()).hexdigest()
    done = export(results, folder / "edits", config.export, config.seed, manifest)
    told = ", ".join(f"{count} {name}" for name, count in done.edits.items())
    print(f"edits: {told}; lists in {folder}/edits")
    if not config.export.autoencoder:
        return 0
    bad = 0
    for name in (TRAIN, HELD_OUT):
        if done.rows[name]:
            bad += make_records(config, folder / "edits" / f"{name}.jsonl", folder / name)
    return SOME_FAILED if bad else 0


def make_records(config: CurateConfig, edits: epath.Path, output: epath.Path) -> int:
    """Make records of a list, as launch.precompute does; give the number of edits left out."""
    chosen = config.export
    encoder = dataclasses.replace(chosen.encoder, path=user_path(chosen.encoder.path))
    autoencoder = user_path(chosen.autoencoder)
    triplets, bad_rows = read_triplets(edits)
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), devices) if len(devices) > 1 else None
    with tqdm(total=len(triplets), desc=output.name, unit="edit") as bar:

        def on_row(bad: BadRow | None) -> None:
            bar.update()
            if bad is not None:
                bar.write(f"left out {bad.row}: {bad.reason}", file=sys.stderr)

        outcome = precompute(
            [Input(edits.name, triplets, bad_rows)],
            output,
            make_settings(chosen.size, encoder, autoencoder),
            lambda: load_models(encoder, autoencoder, mesh),
            batch_size=4 * len(devices),
            on_row=on_row,
        )
    manifest: Any = outcome.manifest
    print(f"{output}: {manifest.records} records")
    return len(outcome.bad_rows)
