"""A stand-in for an object store: what it cannot do, it refuses; what it does late, it does late.

- An object is there as a whole once its writer has closed it, also on an exception (as the files of
  fsspec do); `put_file` leaves nothing when it fails (as gcsfs, s3fs and adlfs do).
- No append, no rename, no copy: code that needs one fails.
- No folders: a folder is there as long as an object below it is listed.
- Listings may lag behind: after `freeze_listings` they show what was there then, neither what was
  put since nor that something was deleted. Exact names always tell the truth.
"""

import contextlib
import importlib
import io
import threading
from collections.abc import Iterator

import pytest
from etils.epath import backend
from fsspec.spec import AbstractFileSystem


class Store:
    """Objects by name ("bucket/folder/file")."""

    def __init__(self):
        self._objects: dict[str, tuple[int, bytes]] = {}  # generation, content
        self._frozen: dict[str, int] | None = None  # listed sizes
        self._frozen_folder = ""
        self._generation = 0
        self._lock = threading.Lock()
        self.puts: list[str] = []
        self.refused: list[str] = []
        self.full = False  # every put fails

    def put(self, name: str, data: bytes) -> int:
        if self.full:
            raise OSError(f"the bucket of {name} takes nothing")
        with self._lock:
            self._generation += 1
            self._objects[name] = self._generation, bytes(data)
            self.puts.append(name)
            return self._generation

    def get(self, name: str) -> tuple[int, bytes]:
        if name not in self._objects:
            raise FileNotFoundError(name)
        return self._objects[name]

    def delete(self, name: str) -> None:
        with self._lock:
            if self._objects.pop(name, None) is None:
                raise FileNotFoundError(name)

    def listing(self, folder: str = "") -> dict[str, int]:
        """Name -> size, as a question about the names below a folder is answered."""
        with self._lock:
            live = {name: len(data) for name, (_, data) in self._objects.items()}
        stale = self._frozen is not None and self._frozen_folder in ("", folder.rstrip("/"))
        shown = self._frozen if stale else live
        return {name: size for name, size in sorted(shown.items()) if name.startswith(folder)}

    def freeze_listings(self, folder: str = "") -> None:
        """Of everything, or of what is directly in one folder."""
        self._frozen, self._frozen_folder = self.listing(), folder

    def show_nothing(self) -> None:
        self._frozen, self._frozen_folder = {}, ""

    def thaw_listings(self) -> None:
        self._frozen = None

    @property
    def names(self) -> list[str]:
        """What is there in truth."""
        return sorted(self._objects)


class _Writer(io.BytesIO):
    def __init__(self, store: Store, name: str):
        super().__init__()
        self._store, self._name = store, name

    def close(self):
        if not self.closed:
            self._store.put(self._name, self.getvalue())
        super().close()


class ObjectStore(AbstractFileSystem):
    """`store` as fsspec sees it."""

    protocol = ("gcs", "gs", "s3")
    cachable = False
    store: Store

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # what step1x_jax.files asks of the real ones
        assert kwargs["use_listings_cache"] is False

    def info(self, path, **kwargs):
        name = self._strip_protocol(path)
        with contextlib.suppress(FileNotFoundError):
            generation, data = self.store.get(name)
            return {"name": name, "size": len(data), "type": "file", "generation": generation}
        if self.store.listing(name + "/"):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **kwargs):
        folder = self._strip_protocol(path).rstrip("/") + "/"
        entries = {}
        for name, size in self.store.listing(folder).items():
            child, *below = name.removeprefix(folder).split("/", 1)
            kind = "directory" if below else "file"
            entries[child] = {"name": folder + child, "size": 0 if below else size, "type": kind}
        if not entries:
            raise FileNotFoundError(path)
        return list(entries.values()) if detail else [e["name"] for e in entries.values()]

    def _open(self, path, mode="rb", **kwargs):
        name = self._strip_protocol(path)
        if mode == "rb":
            return io.BytesIO(self.store.get(name)[1])
        if mode == "wb":
            return _Writer(self.store, name)
        raise NotImplementedError(f"an object store cannot open with mode {mode}")

    def put_file(self, lpath, rpath, **kwargs):
        with open(lpath, "rb") as f:
            self.store.put(self._strip_protocol(rpath), f.read())

    def rm_file(self, path):
        self.store.delete(self._strip_protocol(path))

    def rm(self, path, recursive=False, maxdepth=None):
        if not recursive:
            self.rm_file(path)
            return
        folder = self._strip_protocol(path) + "/"
        listed = list(self.store.listing(folder))
        if not listed:
            raise FileNotFoundError(path)
        for name in listed:
            with contextlib.suppress(FileNotFoundError):
                self.store.delete(name)

    def cp_file(self, path1, path2, **kwargs):
        self.store.refused.append(f"{path1} -> {path2}")
        raise NotImplementedError("no copy, hence no rename")

    def mv(self, path1, path2, **kwargs):
        self.cp_file(path1, path2)

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    def makedirs(self, path, exist_ok=False):
        pass


def standing_in(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A new store, under gs:// and s3:// for whoever asks etils.epath or fsspec."""
    new = Store()
    patch.setattr(ObjectStore, "store", new, raising=False)
    registry = importlib.import_module("fsspec.registry")._registry
    for protocol in ("gcs", "gs", "s3"):
        patch.setitem(registry, protocol, ObjectStore)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield new
    backend.fsspec_backend._get_filesystem.cache_clear()
    assert not new.refused
