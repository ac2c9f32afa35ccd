"""A plan in words."""

from typing import Any


def line(plan: dict[str, Any]) -> str:
    """A plan in one line."""
    mesh = ",".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
    about = f"{mesh or 'one chip'}  {plan['examples']} examples  {plan['remat']}"
    if not plan["fits"]:
        return f"{about}: does not fit, {plan['missing_gib']:.1f} GiB a chip are missing"
    return (
        f"{about}: {plan['images_per_second_per_chip']:.3f} images a second and chip,"
        f" MFU {plan['estimated_mfu']:.1%}, {plan['hbm_per_chip_gib']:.1f} of"
        f" {plan['hbm_available_gib']:.1f} GiB"
    )


def words(plan: dict[str, Any]) -> str:
    """A plan in full."""
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
            " model.remat that stores less."
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
        f" {plan['images_per_second_per_chip']:.3f} images a second and chip (a model of time, no"
        " measurement)",
    ]
    rows += ["", "| the largest | where | ms |", "|---|---|---|"]
    for part, source, seconds in plan["largest"]:
        rows.append(f"| {part.replace('_', ' ')} | {source[-80:]} | {1000 * seconds:.3g} |")
    if plan["kernels_without_cycles"]:
        names = ", ".join(plan["kernels_without_cycles"])
        rows.append(f"no cycles are known of {names}: counted at the chip's peak")
    return "\n".join(rows)
