from types import SimpleNamespace

from step1x_jax.data.chunk_maker import batch_by_shape


def test_batches_have_one_shape_and_are_yielded_when_full():
    names = ["a1", "b1", "a2", "c1", "a3", "b2", "a4", "a5"]
    seen = []

    def edits():
        for name in names:
            seen.append(name)
            yield SimpleNamespace(source=SimpleNamespace(shape=name[0]), name=name)

    batches = []
    for batch in batch_by_shape(edits(), 2):
        batches.append(([edit.name for edit in batch], len(seen)))
    assert batches == [
        (["a1", "a2"], 3), (["b1", "b2"], 6), (["a3", "a4"], 7),  # each as soon as it is full
        (["c1"], 8), (["a5"], 8),
    ]  # fmt: skip
