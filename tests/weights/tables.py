"""What every key table must do."""

from step1x_jax.weights.layouts.official import flatten_params, slices_by_parameter


def assert_covers_once(table, abstract_params):
    """Every parameter is filled by the table, each layer once, in its shape."""
    leaves, sources = flatten_params(abstract_params), slices_by_parameter(table)
    assert set(sources) == set(leaves)
    for path, parts in sources.items():
        stacked = parts[0][0].layer is not None
        layers = [part.layer for part, _, _ in parts]
        assert layers == (list(range(leaves[path].shape[0])) if stacked else [None])
        assert {part.shape for part, _, _ in parts} == {leaves[path].shape[stacked:]}
