from types import SimpleNamespace

from step1x_jax.data.source_cache import SourceCache


def edits(hashes):
    return [SimpleNamespace(source_hash=one) for one in hashes]


def test_each_source_is_computed_once_and_each_edit_gets_its_value(monkeypatch):
    monkeypatch.setattr(SourceCache, "LIMIT", 3)
    calls = []

    def compute(new):
        calls.append("".join(edit.source_hash for edit in new))
        return [f"{edit.source_hash}{len(calls)}" for edit in new]

    cache = SourceCache(compute)
    assert cache.get(edits("aba")) == ["a1", "b1", "a1"]
    assert cache.get(edits("cb")) == ["c2", "b1"]
    assert cache.get([]) == []
    assert cache.get(edits("bac")) == ["b1", "a1", "c2"]
    assert calls == ["ab", "c"]
    assert cache.get(edits("d")) == ["d3"]  # evicts a, the oldest, though it was used last
    assert cache.get(edits("dcba")) == ["d3", "c2", "b1", "a4"]
    # More at once than the cache holds: every edit gets its value, the last ones stay cached.
    assert cache.get(edits("efghij")) == [f"{one}5" for one in "efghij"]
    assert cache.get(edits("hijg")) == ["h5", "i5", "j5", "g6"]
