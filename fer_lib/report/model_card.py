"""The model card of a bundle, rendered from the bundle and its run's results, and the bundle's place in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.calibration.intervals import proportion_interval
from fer_lib.deploy.packaged import FOLDER
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, FerError
from fer_lib.evaluation.leaks import sentences
from fer_lib.models.bundle import META, ONNX, WEIGHTS, Bundle, read_bundle
from fer_lib.report.facts import trainings
from fer_lib.report.markdown import decimal, percent, percent_in, table
from fer_lib.storage.atomic import fresh_folder, write_synced
from fer_lib.storage.text import DASH

CARD = "MODEL_CARD.md"
MAX_BYTES = 5_000_000  # of the ONNX file that ships
_VIEWS = {"none": "single view", "flip": "flip average"}
_DATA = {  # what is known of a source's origin and terms, by the name of the source
    "fer2013": (
        "FER2013 (Goodfellow et al. 2013): 48x48 grey faces found by web image search, without asking those pictured. "
        "For research use only; rights in the pictures stay with their owners."
    ),
    "ferplus": (
        "FERPlus (Barsoum et al. 2016): ten annotators' votes for each FER2013 picture (MIT licence, votes alone)."
    ),
}


def render_card(bundle: Bundle, results: dict[str, Any]) -> str:
    """The model card as Markdown.

    ``results``: the exported run (``fer report export``) in which the bundle's weights were evaluated.  Every figure
    comes from the one or the other.  Raises FerError when that run did not evaluate these weights.
    """
    name, model = _evaluated(bundle, results)
    fit = trainings(results)[bundle.weights_sha256]
    sections = (
        _title(bundle, results, model),
        _use(),
        _data(results, fit),
        _protocol(bundle, results, name),
        _scores(bundle, model),
        _calibration(bundle, model),
        _limits(bundle, fit),
        _identity(bundle, results),
    )
    return "\n\n".join(sections) + "\n"


def install(source: Path, results: dict[str, Any], folder: Path = FOLDER) -> Bundle:
    """Put the bundle at ``source`` (ONNX alone) into ``folder``, with its card; the installed bundle.

    Raises BundleError when it holds torch weights, no ONNX file, one above 5 MB, or a path of a machine; FerError when
    ``results`` are another model's.
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
    if (found := _absolute(bundle.meta)) is not None:
        raise BundleError(f"{source / META} holds {found!r}, a path of the machine that wrote it: it can't ship")
    card = render_card(bundle, results)
    with fresh_folder(folder, may_replace=lambda old: (old / META).is_file() or not any(old.iterdir())) as partial:
        for file in (META, *bundle.meta["files"]):
            write_synced(partial / file, (bundle.path / file).read_bytes())
        write_synced(partial / CARD, card.encode())
    return read_bundle(folder)


def _absolute(value: Any) -> str | None:
    """The first string in a JSON value that is an absolute path."""
    if isinstance(value, str):
        return value if Path(value).is_absolute() or value.startswith("file:") else None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in inner if (found := _absolute(item)) is not None), None)


def _evaluated(bundle: Bundle, results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for name, model in results["evaluation"]["models"].items():
        if model.get("weights_sha256") == bundle.weights_sha256:
            return name, model
    raise FerError(
        f"the run {results['name']!r} did not evaluate the weights of {bundle.path}: give the run that they are from"
    )


def _title(bundle: Bundle, results: dict[str, Any], model: dict[str, Any]) -> str:
    size = f"{(bundle.path / ONNX).stat().st_size / 1e6:.2f} MB" if bundle.has(ONNX) else "not exported"
    rows = (
        ("task", f"expression of one face: {', '.join(EMOTIONS)}"),
        ("network", f"{model['backbone']}, {model['parameters'] / 1e6:.2f} million parameters"),
        ("input", f"a face at {bundle.contract.image_size} px (face contract `{bundle.contract.id}`)"),
        ("output", "seven logits; probabilities after the temperature below"),
        ("file", f"{ONNX}, {size}"),
        ("licence", "that of the package, Apache-2.0, under the terms of the data below"),
    )
    head = f"# Model card: {bundle.name}"
    return (
        f"{head}\n\nRendered from the bundle and the run `{results['name']}`; no figure is typed by hand.\n\n"
        f"{table(('', ''), rows)}"
    )


def _use() -> str:
    return (
        "## Intended use\n\nResearch and teaching on expression recognition, and trying this package out. The output "
        "is the label that an annotator would give to a picture of a face. It is not what a person feels.\n\n"
        "Not for judging people: not at work or school, not for hiring, monitoring, grading, policing, lie detection, "
        "diagnosis or advertising to individuals."
    )


def _data(results: dict[str, Any], fit: dict[str, Any]) -> str:
    imported = [s for p in results["phases"].values() if p["kind"] == "import" for s in p["params"]["sources"]]
    sources = list(fit["data"]["source_counts_after_filter"])
    if any(s["votes"] for s in imported) and "ferplus" not in sources:
        sources.append("ferplus")
    if imported and all(s["root"] == "embedded" for s in imported):
        terms = "Drawn faces that come with fer-lab: the model has seen no real face."
    else:
        known = [f"- {_DATA.get(s, f'{s}: look up its terms before you use this model.')}" for s in sources]
        terms = "\n".join(known) + (
            "\n\nWeights trained on pictures that are for research only inherit that caution: ask before any other use."
        )
    counts = ", ".join(f"{e} {n:,}" for e, n in zip(EMOTIONS, fit["data"]["class_counts"], strict=True))
    said = f"Trained on {fit['data']['train_rows']:,} rows ({counts})."
    if {f["init"]["pretrained"] for f in results["fits"].values()} & {"package", "hub"}:
        said += " The run's networks began with backbone weights pretrained on ImageNet, whose pictures have terms too."
    return f"## Data and its terms\n\n{terms}\n\n{said}"


def _protocol(bundle: Bundle, results: dict[str, Any], name: str) -> str:
    evaluation, select = results["evaluation"], bundle.meta["metrics"]["val_select"]
    held = evaluation["sets"]["all"]
    text = (
        f"Epoch and model were chosen by macro-F1 on val/select ({decimal(select['macro_f1'])}, accuracy "
        f"{percent(select['accuracy'])}). `{name}` was then measured on the rows "
        f"of `{evaluation['suite']}`: {held['n_used']:,} of {held['n_expected']:,} (`{held['evalset_id']}`)"
    )
    if clean := evaluation["sets"].get("leak_free"):
        text += (
            f", and on the {clean['n_used']:,} of them that have no known twin in the training rows "
            f"(`{clean['evalset_id']}`)"
        )
    return f"## Protocol\n\n{' '.join([f'{text}.', *sentences(evaluation)])}"


def _scores(bundle: Bundle, model: dict[str, Any]) -> str:
    """The shipped file's own figures first, then those of its float weights."""
    rows, columns = [], {}
    own = bundle.meta["metrics"].get("test_raw") if bundle.has(ONNX) and not bundle.has(WEIGHTS) else None
    if own:
        interval = proportion_interval(sum(row[i] for i, row in enumerate(own["confusion"])), own["n"])
        rows.append(("this file", "single view, all rows", percent_in(own["accuracy"], interval),
                     decimal(own["macro_f1"]), f"`{own['protocol_id']}`"))  # fmt: skip
        columns["this file"] = own
    for view, sets in model["views"].items():
        for of, report in sets.items():
            raw, (low, high) = report["raw"], report["macro_f1_interval"]
            said = f"{_VIEWS[view]}, {'all rows' if of == 'all' else 'no twins'}"
            rows.append(("float32 weights", said, percent_in(raw["accuracy"], report["accuracy_interval"]),
                         f"{decimal(raw['macro_f1'])} [{low:.3f}, {high:.3f}]",
                         f"`{report['protocol_id']}`"))  # fmt: skip
    columns["float32 weights"] = next(iter(model["views"].values()))["all"]["raw"]
    counts = columns["float32 weights"]["per_class_n"]
    classes = [(e, f"{counts[e]:,}", *(decimal(c["per_class_f1"][e], 3) for c in columns.values())) for e in EMOTIONS]
    head = ("measured", "on", "accuracy [95 %]", "macro-F1 [95 %]", "protocol_id")
    return (
        f"## Results\n\n{table(head, rows)}\n\nF1 of each class, single view, all rows:\n\n"
        f"{table(('class', 'rows', *columns), classes)}"
    )


def _calibration(bundle: Bundle, model: dict[str, Any]) -> str:
    rows = []
    for view, sets in model["views"].items():
        for when, ece in (("before", sets["all"]["ece_raw"]), ("after", sets["all"]["ece_scaled"])):
            found = f"{decimal(ece['value'])} [{ece['lo']:.3f}, {ece['hi']:.3f}]"
            rows.append((_VIEWS[view], when, found, decimal(ece["null_mean"]), decimal(ece["null_q95"])))
    head = ("view", "scaling", "ECE [95 %]", "a calibrated model's mean ECE", "95 % of them below")
    temperature = bundle.temperature
    said = "Logits are used as they are." if temperature is None else _temperature(temperature.model_dump())
    own = bundle.meta["metrics"].get("test") if not bundle.has(WEIGHTS) else None
    file = f" This file's own ECE after scaling, all rows: {decimal(own['ece'])}." if own else ""
    return f"## Calibration\n\n{said}{file}\n\nFloat32 weights, all rows:\n\n{table(head, rows)}"


def _temperature(temperature: dict[str, Any]) -> str:
    values = temperature["temperature_vector"] or [temperature["global_temperature"]]
    shown = ", ".join(decimal(v, 3) for v in values) if values != [None] else DASH
    on = f", fitted on {temperature['fitted_on']} (n = {temperature['n']:,}) and frozen" if temperature["n"] else ""
    return f"Temperature ({temperature['mode']}): {shown}{on}."


def _limits(bundle: Bundle, fit: dict[str, Any]) -> str:
    grey = (
        "it was trained on 48x48 grey pictures, and " if "fer2013" in fit["data"]["source_counts_after_filter"] else ""
    )
    attributes = "the data carry no such labels"
    if any(source.startswith("rafdb_") for source in fit["data"]["source_counts_after_filter"]):
        attributes = "of the data, only RAF-DB's annotations carry gender, race and age, as annotators saw them"
    f1 = bundle.meta["metrics"]["val_select"]["per_class_f1"]
    weakest = sorted(EMOTIONS, key=lambda e: f1[e])[:2]
    return (
        "## Limits\n\n"
        "- Labels are noisy: annotators disagree, some pictures carry the wrong label, some repeat with another one. "
        "The scores measure agreement with labels.\n"
        "- Web pictures hold posed and acted faces beside spontaneous ones, and were found by the words for them. "
        "Expect lower scores in daily life, and with other cameras, light, crops or occlusion.\n"
        f"- Small pictures: {grey}the model works at {bundle.contract.image_size} px and sees no finer detail.\n"
        f"- Accuracy by age, sex, skin tone or origin was not measured: {attributes}. Expect "
        f"differences.\n- {weakest[0]} and {weakest[1]} are recognised least well on validation rows.\n"
        "- Calibration holds for data like that on which the temperature was fitted; fit it again for yours."
    )


def _identity(bundle: Bundle, results: dict[str, Any]) -> str:
    rows = (
        ("weights", bundle.weights_sha256),
        ("manifest", bundle.meta["ids"].get("manifest_sha256", DASH)),
        ("run", results["run_id"]),
        ("commit", results["git"] or DASH),
        ("bundle made", bundle.meta["created"]),
    )
    text = f"## Identity\n\n{table(('', ''), [(k, f'`{v}`') for k, v in rows])}"
    if (git := results["git"] or "").endswith("-dirty"):
        text += (
            f"\n\nThe training code had uncommitted changes on top of commit `{git.removesuffix('-dirty')}`, so these "
            "weights cannot be reproduced exactly from a commit."
        )
    return text
