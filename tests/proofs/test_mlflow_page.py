"""MLflow's page, opened as a person does: the runs of a finished run file, and two students side by side."""

import json
import urllib.error
import urllib.request

import browser
import pytest

pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def opened(road):
    with browser.page(road.home) as base, browser.Browser() as tab:
        yield base, tab


@pytest.fixture
def runs(walked):
    return browser.students(walked.home)


def is_picture(path) -> bool:
    """Not one colour: a page that failed to render is white."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("L"))
    return pixels.std() > 10 and len(np.unique(pixels)) > 50


def test_the_list_shows_every_phase_below_its_run(opened, walked, runs, tmp_path):
    base, tab = opened
    lines = browser.runs_list(tab, base, runs).splitlines()
    parent, nested = walked.walk
    wanted = {parent.info.run_name, *nested, *(run.data.params["mode"] for run in runs)}
    assert wanted <= set(lines), wanted - set(lines)
    for run in runs:
        assert str(run.data.metrics["best/macro_f1"])[:6] in " ".join(lines)
    tab.picture(tmp_path / "runs.png")
    assert is_picture(tmp_path / "runs.png")


def test_a_comparison_of_two_students_names_what_differs(opened, runs, tmp_path):
    base, tab = opened
    text = browser.comparison(tab, base, runs)
    assert "Comparing 2 Runs" in text
    for run in runs:
        assert run.info.run_name in text and run.info.run_id in text and run.data.params["mode"] in text
    one, other = (run.data.metrics for run in runs)
    shown = [line for line in text[text.rindex("\nMetrics\n") :].splitlines() if line in one]
    assert len(shown) >= 5  # the table is a scrolled window: the page holds its first rows only
    assert shown == [name for name in sorted(one) if one[name] != other.get(name)][: len(shown)]
    for name in shown:
        assert one[name] != other[name]
        assert f"{round(one[name], 3):g}" in text and f"{round(other[name], 3):g}" in text
    details = text[text.index("Run details") :]
    rows = details[details.index("\nParameters\n") : details.index("\nMetrics\n")]
    names = {line.split("\t")[0] for line in rows.splitlines() if "\t" in line}
    one, other = (run.data.params for run in runs)
    assert names == {name for name in one if one[name] != other.get(name)}
    tab.picture(tmp_path / "compare.png")
    assert is_picture(tmp_path / "compare.png")


def status(url: str, method: str, origin: str | None = None) -> int:
    body = json.dumps({"name": "from another page"}).encode() if method != "GET" else None
    headers = {"content-type": "application/json"} | ({"origin": origin} if origin else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_another_page_changes_nothing_and_no_request_writes_a_file(opened, runs):
    base, _ = opened
    create = f"{base}/api/2.0/mlflow/experiments/create"
    assert status(create, "POST", "http://127.0.0.1:1") == 403
    for address in ("api", "ajax-api"):
        assert status(f"{base}/{address}/2.0/mlflow-artifacts/artifacts/x/y.txt", "PUT", base) == 503
    read = f"{base}/get-artifact?path=reliabilitymetrics.json&run_uuid={runs[0].info.run_id}"
    assert status(read, "GET") == 200 and status(read, "GET", "http://127.0.0.1:1") == 403
