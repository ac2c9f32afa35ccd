"""Every test sees 8 CPU devices and full matmul precision, wherever it runs."""

import importlib.metadata
import os
import shutil

import jax
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models spend their time in the compiler: these flags make it about six times faster.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # newer ones do not know it
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
LEAST_SECONDS = 0.02  # a program that compiles in less is not worth a file
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()


def pytest_configure(config):
    """Compile each program once for all tests, the processes that they start, and the next run.

    Not in the home of whoever runs the tests, where what loads an editor would keep them.
    """
    chosen = {
        "jax_compilation_cache_dir": str(config.rootpath / ".pytest_cache" / "programs"),
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in chosen.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture
def user_without_compile_cache(monkeypatch):
    """For processes that a test starts: no folder for compiled programs is chosen."""
    for name in [name for name in os.environ if "_CACHE_" in name and name.startswith("JAX_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def store(monkeypatch, tmp_path_factory):
    """An empty object store under gs:// and s3:// (tests/object_store.py), and an empty home."""
    from tests.object_store import standing_in

    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    yield from standing_in(monkeypatch)


@pytest.fixture(scope="session")
def gcs_server():
    """What Google's clients talk to in place of Google; tensorstore reads its address once."""
    from tests.gcs_server import serving

    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        yield server


@pytest.fixture
def gcs(store, gcs_server, monkeypatch):
    """The store of `store`, where Orbax and tensorstore see it, too."""
    from orbax.checkpoint._src.path import gcs_utils

    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    gcs_server.store = store
    return store


@pytest.fixture(scope="module")
def chromium():
    """A browser: the extra [dev] drives the chromium or chrome of this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no chromium or chrome is installed here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True, scope="module")
def free_compiled_programs():
    """Frees the programs of a file after it: those of all files take 9 GB."""
    yield
    jax.clear_caches()
