"""launch/notebooks/edit.ipynb, executed from top to bottom in a kernel of its own.

What it shows is stored in it by `python -m tests.launch.test_notebook`, to be run after every
change of it: the pictures are of a person's program, not of the tests' hasty compiler.
"""

import base64
import io
import json
import os
import pathlib
import re

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch/notebooks/edit.ipynb"
MOST_BYTES = 600_000
LONGEST = 600  # seconds that a cell may take, on a machine that does much else
PICTURE = "image/jpeg"


def executed(**environment):
    """The notebook with the outputs of now; raises what a cell raises."""
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=LONGEST, resources={"metadata": {"path": NOTEBOOK.parent}}
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored():
    return code_cells(json.loads(NOTEBOOK.read_text()))


def shown(cell):
    """What a cell gave: (name of the stream, text), or (PICTURE, (width, height))."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield output["name"], without_chance("".join(output["text"]))
        else:
            assert output["output_type"] == "display_data"
            yield PICTURE, picture(output).size


def picture(output):
    image = Image.open(io.BytesIO(base64.b64decode(output["data"][PICTURE])))
    image.load()
    return image


def without_chance(text):
    """A text without what differs from one machine to another: rounded shares, the place."""
    return re.sub(r"about \d+%", "about N%", text.replace(f"{ROOT}/", ""))


def test_what_is_stored_is_complete():
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    cells = stored()
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    found = [item for cell in cells for item in shown(cell)]
    assert {name for name, _ in found} == {"stdout", PICTURE}  # no warning and no error
    assert len([name for name, _ in found if name == PICTURE]) == 10
    text = "".join(text for name, text in found if name == "stdout")
    assert "False" not in text
    assert text.count("True") == 6


def test_stored_pictures_are_no_plain_areas():
    for cell in stored():
        for output in cell["outputs"]:
            if output["output_type"] == "display_data":
                lowest, highest = picture(output).convert("L").getextrema()
                assert highest - lowest > 100


@pytest.mark.slow
def test_it_runs_and_gives_what_is_stored():
    # each program is compiled here, whatever the home of whoever runs this has kept
    now = code_cells(executed(JAX_ENABLE_COMPILATION_CACHE="false"))
    assert [list(shown(cell)) for cell in now] == [list(shown(cell)) for cell in stored()]


def store():
    """Executes the notebook and writes it with its outputs."""
    import nbformat

    notebook = executed()
    for cell in notebook["cells"]:
        cell["metadata"].clear()  # when it ran
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                output["text"] = output["text"].replace(f"{ROOT}/", "")
    notebook["metadata"]["language_info"] = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    store()
