"""The page on which edits are judged, in a browser; what it saves is read back."""

import shutil

import pytest

from step1x_jax.curation.review import ReviewVerdict, read_verdicts, write_page
from tests.curation.filters.rows import edit, encode

pytestmark = pytest.mark.slow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.fixture
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
    if BROWSER is None:
        pytest.skip("no chromium or chrome is installed here")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


def test_verdicts_are_kept_and_saved(tmp_path, browser):
    rows = []
    for number in range(3):
        source, target, _ = edit(number)
        rows.append(
            {
                "id": f'r{number}"<b>',
                "category": "color_alter",
                "source": encode(source),
                "target": encode(target),
                "instruction_en": "<script>document.title = 'bad'</script>",
                "instruction_cn": "加一个方块",
            }
        )
    write_page(rows, tmp_path / "page")
    page = browser.new_context().new_page()
    problems = []
    page.on("pageerror", lambda e: problems.append(str(e)))
    address = (tmp_path / "page/index.html").as_uri()
    page.goto(address)
    assert page.title() == "Review of edits"
    assert page.locator("section").count() == 3
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    page.locator("section").nth(0).get_by_role("button", name="keep").click()
    page.locator("section").nth(2).get_by_role("button", name="reject").click()
    page.locator("section").nth(2).locator("select").select_option("artefacts")
    page.goto(address)  # what was said is still there
    assert page.locator("#count").inner_text() == "2 of 3"
    with page.expect_download() as download:
        page.get_by_role("button", name="save verdicts").click()
    saved = tmp_path / "verdicts.jsonl"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "verdicts.jsonl"
    assert read_verdicts(str(saved)) == {
        'r0"<b>': ReviewVerdict('r0"<b>', "keep"),
        'r2"<b>': ReviewVerdict('r2"<b>', "reject", "artefacts"),
    }
    assert problems == []
