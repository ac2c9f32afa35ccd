"""A check for all tables of tensor names."""

from step1x_jax.weights.layouts.official import flatten_params, slices_by_parameter


def assert_covers_once(table, abstract_params):
    """Asserts that the table fills every parameter with its shape, each layer once."""
    leaves, sources = flatten_params(abstract_params), slices_by_parameter(table)
    assert set(sources) == set(leaves)
    for path, parts in sources.items():
        stacked = parts[0][0].layer is not None
        layers = [part.layer for part, _, _ in parts]
        assert layers == (list(range(leaves[path].shape[0])) if stacked else [None])
        assert {part.shape for part, _, _ in parts} == {leaves[path].shape[stacked:]}
