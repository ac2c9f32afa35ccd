"""A run's edits as the lists that launch.precompute reads, with their pictures.

Two lists, train.jsonl and held_out.jsonl. All edits of one photograph are in one of them, and so
are the frames of a video; an edit of photographs on both sides is in neither.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from step1x_jax.conditioning.images import identify_image
from step1x_jax.curation.config import ExportConfig
from step1x_jax.curation.engine.rows import ID, Row
from step1x_jax.curation.results import EDIT, MORE, Results, groups_of
from step1x_jax.errors import UserError
from step1x_jax.files import making_folder
from step1x_jax.json_files import read_json, write_json

TRAIN, HELD_OUT, BETWEEN = "train", "held_out", "between"
PICTURES, ABOUT = "pictures", "export.json"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
      edits: how many of each of TRAIN, HELD_OUT and BETWEEN (left out).
      rows: how many lines of each list: an edit has one in each language.
    """

    edits: Mapping[str, int]
    rows: Mapping[str, int]


def export(
    results: Results, output: epath.PathLike, config: ExportConfig, seed: int, manifest: str
) -> Exported:
    """Write both lists and all pictures as a folder: complete, or not at all.

    Args:
      results: of a run that is done.
      output: the folder to make; one that was made of the same stays as it is.
      config: what to write.
      seed: of the choice of what is held out.
      manifest: digest of the run's manifest: what the folder is made of.

    Raises:
      UserError: the folder exists and was made of something else, or cannot be written; or a group
        to hold out is not there.
    """
    output = epath.Path(output)
    facts = {
        "manifest": manifest,
        "languages": list(config.languages),
        "held_out": list(config.held_out_groups) or config.held_out,
        "seed": seed,
    }
    if output.exists():
        return _there(output, facts)
    groups = {group for row in results.accepted(_GROUPS) for group in groups_of(row)}
    if unknown := sorted(set(config.held_out_groups) - groups):
        raise UserError(
            f"the run has no edits of {', '.join(unknown)}, which export.held_out_groups names."
        )
    held_out = set(config.held_out_groups) or choose_held_out(groups, config.held_out, seed)
    counts: collections.Counter[str] = collections.Counter()
    with making_folder(output) as folder:
        (folder / PICTURES).mkdir()
        with (
            (folder / f"{TRAIN}.jsonl").open("w") as train,
            (folder / f"{HELD_OUT}.jsonl").open("w") as held,
        ):
            for row in results.accepted({**EDIT, **MORE}):
                split = split_of(row, held_out)
                counts[split] += 1
                if split == BETWEEN:
                    continue
                file = held if split == HELD_OUT else train
                for line in _lines(row, folder, config.languages):
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        edits = {name: counts[name] for name in (TRAIN, HELD_OUT, BETWEEN)}
        rows = {name: counts[name] * len(config.languages) for name in (TRAIN, HELD_OUT)}
        write_json(folder / ABOUT, {**facts, "edits": edits, "rows": rows})
    return Exported(edits, rows)


_GROUPS = {name: MORE[name] for name in ("group", "groups")}


def _there(output: epath.Path, facts: Mapping[str, Any]) -> Exported:
    about = output / ABOUT
    values = read_json(about) if about.exists() else {}
    if {name: values.get(name) for name in facts} != facts:
        raise UserError(
            f"{output} exists, and was not exported from this run as it is now; remove it, or give"
            " another --output."
        )
    return Exported(values["edits"], values["rows"])


def choose_held_out(groups: Iterable[str], share: float, seed: int) -> set[str]:
    """Groups to hold out: the share of all, rounded, but at least one if a share is wanted.

    There must be one left to train on. The choice is by a hash of each name.
    """
    ordered = sorted(set(groups), key=lambda group: _hash(f"{seed} {group}"))
    count = max(round(share * len(ordered)), 1) if share else 0
    return set(ordered[: min(count, max(len(ordered) - 1, 0))])


def split_of(row: Row, held_out: set[str]) -> str:
    """TRAIN or HELD_OUT; BETWEEN if photographs of both went into the edit."""
    inside = {group in held_out for group in groups_of(row)}
    if len(inside) > 1:
        return BETWEEN
    return HELD_OUT if True in inside else TRAIN


def _lines(row: Row, folder: epath.Path, languages: Iterable[str]) -> Iterator[dict[str, Any]]:
    pictures: dict[str, Any] = {
        name: _save(row[name], folder) for name in ("source", "target", "mask") if row[name]
    }
    if row["references"]:
        pictures["references"] = [_save(data, folder) for data in row["references"]]
    lineage = {
        "groups": groups_of(row),
        "licences": row["licences"] or [row["licence"] or ""],
        "urls": row["urls"] or [row["url"] or ""],
        "photograph_sha256": row["sha256"] or "",
        "method": row["method"] or "",
        "instruction_by": row["instruction_by"] or "",
    }
    for language in languages:
        yield {
            "id": f"{row[ID]}-{language}",
            **pictures,
            "instruction": row[f"instruction_{language}"],
            "language": language,
            "task": row["category"],
            **lineage,
        }


def _save(data: bytes, folder: epath.Path) -> str:
    """Write a picture under the name of its content, once; give the name."""
    ending = (identify_image(data, "a picture of the run").format or "png").lower()
    name = f"{PICTURES}/{hashlib.sha256(data).hexdigest()[:32]}.{ending}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
