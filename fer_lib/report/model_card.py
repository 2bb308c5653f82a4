"""The model card of a bundle, and the installation of a bundle as the package's model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fer_lib.calibration.intervals import proportion_interval
from fer_lib.deploy.packaged import FOLDER
from fer_lib.deploy.predict import LICENCE
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, FerError
from fer_lib.evaluation.leaks import leak_warnings
from fer_lib.models.bundle import META, ONNX, WEIGHTS, Bundle, read_bundle
from fer_lib.models.published_weights import IMAGENET_TERMS, PACKAGES
from fer_lib.report.data_terms import source_terms
from fer_lib.report.facts import fits_by_weights, import_sources
from fer_lib.report.markdown import render_template
from fer_lib.storage.atomic import fresh_folder, write_synced

CARD = "MODEL_CARD.md"
MAX_BYTES = 5_000_000  # of the packaged ONNX file


def render_card(bundle: Bundle, results: dict[str, Any]) -> str:
    """The model card as Markdown.

    ``results``: the exported run (``fer report export``) that evaluated the bundle's weights. Every figure of the card
    comes from the bundle or from this run.

    Raises:
        FerError: the run did not evaluate these weights.
    """
    model_name, model = _evaluated_model(bundle, results)
    fit = fits_by_weights(results)[bundle.weights_sha256]
    training_sources = list(fit["data"]["source_counts_after_filter"])
    metrics = bundle.meta["metrics"]
    onnx_only = bundle.has(ONNX) and not bundle.has(WEIGHTS)
    file_raw = metrics.get("test_raw") if onnx_only else None
    correct = sum(row[i] for i, row in enumerate(file_raw["confusion"])) if file_raw else 0
    context = {
        "bundle": bundle,
        "model_name": model_name,
        "model": model,
        "fit": fit,
        "onnx_bytes": (bundle.path / ONNX).stat().st_size if bundle.has(ONNX) else None,
        "training_sources": training_sources,
        "val_select": metrics["val_select"],
        "leak_warnings": leak_warnings(results["evaluation"]),
        "file_raw": file_raw,
        "file_interval": proportion_interval(correct, file_raw["n"]) if file_raw else None,
        "file_scaled": metrics.get("test") if not bundle.has(WEIGHTS) else None,
        "weakest": sorted(EMOTIONS, key=metrics["val_select"]["per_class_f1"].get),
    }
    return render_template("model_card.md.j2", **results, **_terms(training_sources, results), **context) + "\n"


def render_licence(bundle: Bundle, results: dict[str, Any]) -> str:
    """The licence of weights that were learned from images with terms; "" for weights of drawn faces alone."""
    fit = fits_by_weights(results)[bundle.weights_sha256]
    terms = _terms(list(fit["data"]["source_counts_after_filter"]), results)
    return "" if terms["drawn_faces"] else render_template("licence.txt.j2", bundle=bundle, **terms) + "\n"


def _terms(training_sources: list[str], results: dict[str, Any]) -> dict[str, Any]:
    """``drawn_faces``, ``data_terms`` of the training sources and of the votes, and ``starting_terms``."""
    imports = import_sources(results)
    layouts = {source["name"] or source["source"]: source["source"] for source in imports}
    terms = [source_terms(name, layouts.get(name, name)) for name in training_sources]
    if any(source["votes"] for source in imports):
        terms.append(source_terms("ferplus", "ferplus"))
    return {
        "drawn_faces": bool(imports) and all(source["root"] == "embedded" for source in imports),
        "data_terms": list(dict.fromkeys(terms)),
        "starting_terms": sorted({terms for fit in results["fits"].values() if (terms := _starting_terms(fit))}),
    }


def install(source: Path, results: dict[str, Any], folder: Path = FOLDER) -> Bundle:
    """Copy the ONNX-only bundle at ``source`` with its card and licence to ``folder``; return the installed bundle.

    Raises:
        BundleError: the bundle has torch weights, no ONNX file, an ONNX file above 5 MB, or an absolute path.
        FerError: ``results`` did not evaluate the bundle's weights.
    """
    bundle = read_bundle(source)
    if not bundle.has(ONNX) or bundle.has(WEIGHTS):
        raise BundleError(f"{source} must hold {ONNX} and no {WEIGHTS}: use the export phase's packaged folder")
    size = (bundle.path / ONNX).stat().st_size
    if size > MAX_BYTES:
        raise BundleError(
            f"{source / ONNX} has {size / 1e6:.2f} MB, the package takes {MAX_BYTES / 1e6:g} MB at most: export with "
            "compact: true, or train a smaller student"
        )
    if path := re.search(r'"((?:/|file:|[A-Za-z]:[/\\])[^"]*)"', json.dumps(bundle.meta)):
        raise BundleError(
            f"{source / META} holds {path[1]}, a path of the machine that wrote it: export the bundle again without it"
        )
    texts = {CARD: render_card(bundle, results), LICENCE: render_licence(bundle, results)}
    with fresh_folder(folder, may_replace=lambda old: (old / META).is_file() or not any(old.iterdir())) as partial:
        for file in (META, *bundle.meta["files"]):
            write_synced(partial / file, (bundle.path / file).read_bytes())
        for file, text in texts.items():
            if text:
                write_synced(partial / file, text.encode())
    return read_bundle(folder)


def _starting_terms(fit: dict[str, Any]) -> str:
    """Where the published weights that a fit of a run started from come from; "" for others."""
    source = fit["init"]["pretrained"]
    if source == "package":
        return PACKAGES[fit["model"]["backbone"]].start.terms
    return IMAGENET_TERMS if source == "hub" else ""


def _evaluated_model(bundle: Bundle, results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and evaluation of the model that has the bundle's weights."""
    for name, model in results["evaluation"]["models"].items():
        if model.get("weights_sha256") == bundle.weights_sha256:
            return name, model
    raise FerError(
        f"the run {results['name']!r} did not evaluate the weights of {bundle.path}: pass the run that trained them"
    )
