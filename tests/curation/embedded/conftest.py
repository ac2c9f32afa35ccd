"""Photographs, for tests that need OpenCV: a module of these is skipped where it is missing."""

import pytest


@pytest.fixture(scope="session")
def originals():
    from step1x_jax.curation.embedded.photographs import load_originals

    return load_originals()


@pytest.fixture(scope="session")
def views():
    from step1x_jax.curation.embedded.photographs import load_photographs

    return {view.name: view for view in load_photographs()}
