"""Format plans as text."""

import math
from typing import Any


def ranking_key(plan: dict[str, Any]) -> float:
    """Return a sort key for plans of one program, best first; plans that do not fit are last."""
    if plan["program"] == "sample":
        return plan["estimated_edit_seconds"] or math.inf
    return -(plan["images_per_second_per_chip"] or 0.0)


def summary_line(plan: dict[str, Any]) -> str:
    """Format a plan as one line."""
    mesh = ",".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    if plan["program"] == "sample":
        return f"{mesh or 'one chip'}: {_format_seconds(plan)}; {_format_fit(plan)}"
    about = f"{mesh or 'one chip'}  {plan['examples']} examples  {plan['remat']}"
    if not plan["fits"]:
        return f"{about}: does not fit, {plan['missing_gib']:.1f} GiB a chip are missing"
    return (
        f"{about}: {plan['images_per_second_per_chip']:.3f} images a second and chip,"
        f" MFU {plan['estimated_mfu']:.1%}, {plan['hbm_per_chip_gib']:.1f} of"
        f" {plan['hbm_available_gib']:.1f} GiB"
    )


def format_plan(plan: dict[str, Any]) -> str:
    """Format a plan in full."""
    if plan["program"] == "sample":
        return format_edit_plan(plan)
    rows = [
        f"{plan['program']} at {plan['size']} px on {plan['slices']} x {plan['topology']}:"
        f" {plan['chips']} chips, mesh {plan['mesh']}",
        f"{plan['examples']} examples a step, remat {plan['remat']}",
        f"compiled in {plan['compile_seconds']:.0f} s",
    ]
    used, there = plan["hbm_per_chip_gib"], plan["hbm_available_gib"]
    if not plan["fits"]:
        rows.append(
            f"Does not fit: a chip would need {used:.2f} GiB and has {there:.2f};"
            f" {plan['missing_gib']:.2f} GiB are missing. Take more chips, fewer --examples, or a"
            " model.remat that saves less."
        )
        return "\n".join(rows)
    rows += [
        f"HBM per chip: arguments {plan['hbm_arguments_gib']:.2f}, temporaries"
        f" {plan['hbm_temporaries_gib']:.2f}, peak {used:.2f} of {there:.2f} GiB: fits",
        f"host memory per chip (remat offload): {plan['host_temporaries_gib']:.2f} GiB",
        f"model: {plan['model_tflop_per_example']:.4g} TFLOP an example;"
        f" compiled: {plan['compiled_tflop_per_chip']:.4g} TFLOP a chip and step,"
        f" {plan['hbm_traffic_gib_per_chip']:.3g} GiB through its memory",
        "",
        "| collective | count | GiB per chip | asynchronous | ms on the wire | ms exposed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, c in plan["collectives"].items():
        rows.append(
            f"| {kind} | {c['count']:.0f} | {c['gib']:.2f} | {c['asynchronous']:.0%} |"
            f" {1000 * c['seconds']:.1f} | {1000 * c['exposed_seconds']:.1f} |"
        )
    rows += ["", "| estimated | ms |", "|---|---|"]
    for part, seconds in plan["estimated_parts_seconds"].items():
        rows.append(f"| {part.replace('_', ' ')} | {1000 * seconds:.3g} |")
    rows += [
        f"| step | {1000 * plan['estimated_step_seconds']:.4g} |",
        "",
        f"estimated MFU {plan['estimated_mfu']:.1%},"
        f" {plan['images_per_second_per_chip']:.3f} images a second and chip (a model, not a"
        " measurement)",
    ]
    rows += ["", "| the largest | where | ms |", "|---|---|---|"]
    for part, source, seconds in plan["largest"]:
        rows.append(f"| {part.replace('_', ' ')} | {source[-80:]} | {1000 * seconds:.3g} |")
    if plan["kernels_without_cycles"]:
        names = ", ".join(plan["kernels_without_cycles"])
        rows.append(f"the cycles of {names} are unknown: estimated at the chip's peak")
    return "\n".join(rows)


def format_edit_plan(plan: dict[str, Any]) -> str:
    """Format the plan of an edit in full."""
    stored = f", blocks in {plan['quantize']}" if plan["quantize"] else ""
    rows = [
        f"an edit at {plan['size']} px on {plan['topology']}: {plan['chips']} chips, mesh"
        f" {plan['mesh']}{stored}; compiled in {plan['compile_seconds']:.0f} s",
        "",
        "| weights | GiB on the first chip |",
        "|---|---|",
    ]
    for name, gib in plan["weights_gib"].items():
        rows.append(f"| {name.replace('_', ' ')} | {gib:.2f} |")
    rows += ["", "| program | GiB beside the weights | estimated s |", "|---|---|---|"]
    for name, part in plan["programs"].items():
        seconds = part["estimated_seconds"]
        took = "unknown" if seconds is None else f"{seconds:.3g}"
        rows.append(f"| {name} | {part['working_gib']:.2f} | {took} |")
    rows += ["", _format_fit(plan), f"{_format_seconds(plan)} (a model of time, not a measurement)"]
    return "\n".join(rows)


def _format_fit(plan: dict[str, Any]) -> str:
    """Format whether an edit fits, and by how much."""
    said = []
    for where, title in (("resident", "all models on the chips"), ("offloaded", "--offload")):
        gib, available = plan["peak_gib"][where], plan["hbm_available_gib"]
        rest = available - gib
        fits = (
            f"fits, {rest:.1f} are left" if rest >= 0 else f"does not fit, {-rest:.1f} are missing"
        )
        said.append(f"{title}: {gib:.1f} of {available:.1f} GiB: {fits}")
    return "; ".join(said)


def _format_seconds(plan: dict[str, Any]) -> str:
    """Format the estimated time of an edit."""
    total, steps = plan["estimated_edit_seconds"], plan["steps"]
    if total is None:
        return "its time is not estimated: the sampler does not fit"
    each = 1000 * plan["estimated_step_seconds"]
    return (
        f"{total:.1f} s an edit ({steps} steps of {each:.0f} ms), with --offload"
        f" {plan['estimated_offload_seconds']:.1f} s more to load weights to the chips"
    )
