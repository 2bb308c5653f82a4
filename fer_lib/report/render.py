"""The results page of an exported run (``docs/results/NAME.json``), its figures, and the README's results section.

Every number comes from the JSON file. The goals are those of :mod:`fer_lib.report.facts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from fer_lib.errors import FerError
from fer_lib.evaluation.leaks import leak_warnings
from fer_lib.report import facts
from fer_lib.report.collect import FORMAT
from fer_lib.report.figures import draw_figures
from fer_lib.report.markdown import render_template, replace_section
from fer_lib.storage.json_files import read_json


def read_results(path: Path) -> dict[str, Any]:
    """An exported run.

    Raises:
        FerError: the file is missing, broken, or of another format.
    """
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise FerError(f"{path} is not a run exported by this version: write it again with: fer report export NAME")
    return results


@contextmanager
def damage_as_message(path: Path) -> Iterator[None]:
    """A FerError that names ``path``, in place of what a missing or changed entry of the results raises."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration, TemplateError) as error:
        raise FerError(
            f"{path} has an entry that is missing or changed ({type(error).__name__}: {error}): write the file again "
            "with: fer report export NAME"
        ) from error


def render(path: Path, readme: Path | None = None) -> Path:
    """Write ``NAME.md`` and ``NAME/*.png`` beside ``NAME.json``; return the path of the page.

    ``readme``: a README whose results section is updated, too.

    Raises:
        FerError: the file is damaged, ``readme`` is missing, or the run imported drawn faces. No page is written then.
    """
    results = read_results(path)
    if readme is not None:
        with damage_as_message(path):
            facts.refuse_drawn_faces(results, path)
        if not readme.is_file():
            raise FerError(f"{readme} is missing: run the command in a checkout, or render without --readme")
    with damage_as_message(path):
        figures = draw_figures(results, path.with_suffix(""))
        text = render_page(results, figures, path.name)
        section = readme_section(results)
    page = path.with_suffix(".md")
    page.write_text(text, encoding="utf-8")
    if readme is not None:
        old = readme.read_text(encoding="utf-8")
        readme.write_text(replace_section(old, "results", section), encoding="utf-8")
    return page


def render_page(results: dict[str, Any], figures: dict[str, dict[str, str]], source: str) -> str:
    """The page as Markdown.

    ``figures``: {section: {alternative text: path relative to the page}}, ``source``: name of the JSON file.
    """
    context = {
        "figures": figures,
        "source": source,
        "reports": facts.reports_by_rows(results),
        "protocol_differences": facts.protocol_differences(results),
        "temperature_fits": facts.temperature_fits(results),
        "ensemble_views": facts.ensemble_views(results),
        "prior_corrections": facts.prior_corrections(results),
    }
    return render_template("page.md.j2", **_summary_context(results), **context) + "\n"


def readme_section(results: dict[str, Any]) -> str:
    """The results section of the README: one table and the summary."""
    models = facts.evaluated_models(results)
    seconds = {name: facts.training_seconds(results, name) for name in models}
    return render_template("readme_results.md.j2", training_seconds=seconds, **_summary_context(results))


def _summary_context(results: dict[str, Any]) -> dict[str, Any]:
    return results | {
        "stages": results.get("stages") or {},  # missing in files of earlier versions
        "models": facts.evaluated_models(results),
        "student": facts.best_student(results),
        "goals": facts.goal_outcomes(results),
        "leak_warnings": leak_warnings(results["evaluation"]),
    }
