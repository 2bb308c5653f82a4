"""``fer data``: from raw trees to a manifest that is validated, curated and audited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from fer_lib.cli import data_views as views
from fer_lib.cli.data_files import imported_rows, read_rows, values_of, written
from fer_lib.cli.data_views import save_pages, show
from fer_lib.errors import DataError, ParamsError
from fer_lib.params import AuditParams, CsvParams, CurateParams, ImportParams, ManifestParams, strict
from fer_lib.pipeline.cache_key import PATH_FIELDS
from fer_lib.pipeline.progress import show_progress
from fer_lib.pipeline.runfile import load_run
from fer_lib.storage import paths

data = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True,
    help="Import, build, curate, validate and count datasets.",
)  # fmt: skip
PARAM = Annotated[list[str] | None, typer.Option("-p", "--param", help="key=value; may be repeated")]
MANIFEST = Annotated[Path, typer.Argument(help="a manifest.parquet, or its folder", metavar="MANIFEST")]
OUT = Annotated[Path, typer.Option("-o", "--out", help="the folder to write", show_default=False)]
JSON = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@data.command("import")
def import_(
    out: OUT,
    params: Annotated[Path | None, typer.Argument(help="a run file, or one with sources: [...]")] = None,
    source: Annotated[str, typer.Option(help="the raw layout, for instance fer2013 or rafdb_basic")] = "",
    root: Annotated[str, typer.Option(help="where its raw data lie; embedded: drawn faces")] = "",
    param: PARAM = None,
) -> None:
    """Import raw datasets, each into its own folder under OUT; the raw files stay as they are.

    Either a params file, or one source by --source and --root with -p for its other parameters.
    """
    from fer_lib.datasets.build import nested_counts
    from fer_lib.importers import import_all

    if (params is None) == (not source):
        raise ParamsError("name either a params file or --source NAME with --root DIR (see: fer data import --help)")
    if params is not None and (root or param):
        raise ParamsError("--root and -p belong to --source; a params file says everything itself")
    specs = _one_source(source, root, param) if params is None else _sources_of(params)
    with show_progress("import"):
        report = import_all(specs, out)
    rows = imported_rows(out)
    show(views.count_table(nested_counts(rows.frame), "Imported"), views.left_out_table(report["reports"]))
    for warning in report["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    save_pages(rows, "Imported rows", "imported_rows", out)
    typer.echo(f"{report['manifest']['rows']:,} rows in {out}; next: fer data build {out} -o MANIFEST_FOLDER")


def _one_source(source: str, root: str, param: list[str] | None) -> list:
    """The spec that the options describe; paths are the caller's, so they are made absolute."""
    if not root:
        raise ParamsError(f"--source {source} needs --root: the folder of its raw data, or embedded for drawn faces")
    values = {"source": source, "root": root} | values_of(param)
    for name in PATH_FIELDS:
        value = values.get(name)
        if isinstance(value, str) and value and not (name == "root" and value == "embedded"):
            values[name] = str(Path(value).expanduser().absolute())
    return strict.validate(ImportParams, {"sources": [values]}, "import").sources


def _sources_of(params: Path) -> list:
    """The sources in a params file: ``sources`` at its top, or those of the import phases of a run file."""
    values = strict.read_mapping(params)
    if "phases" not in values:
        return strict.validate(ImportParams, values, "import").sources
    specs = [spec for phase in load_run(params).phases if phase.kind == "import" for spec in phase.params.sources]
    if not specs:
        raise ParamsError(f"{params} has no phase of kind import")
    return specs


@data.command("import-manifest")
def import_manifest(
    csv: Annotated[Path, typer.Argument(help="an interchange CSV of 4 or 11 columns", metavar="CSV")],
    root: Annotated[Path, typer.Option(help="the folder that holds the images", show_default=False)],
    out: OUT,
    rebase: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: paths that begin with OLD begin with NEW; NEW '.' is the root")
    ] = None,
    param: PARAM = None,
) -> None:
    """Make a manifest of a CSV, old ones with absolute Windows or Linux paths too."""
    from fer_lib.datasets.build import nested_counts
    from fer_lib.importers.csv_import import import_csv

    params = strict.validate(CsvParams, {"rebase": rebase or []} | values_of(param), "import-manifest")
    with show_progress("import-manifest"):
        manifest = import_csv(csv, root, out, params)
    report = json.loads((out / "import_report.json").read_text(encoding="utf-8"))
    show(views.count_table(nested_counts(manifest.frame), f"Manifest of {csv.name}"))
    for name in ("excluded", "bad_rows", "rebased"):
        if report[name]:
            typer.echo(f"{name.replace('_', ' ')}: {report[name]}")
    save_pages(manifest, f"Rows of {csv.name}", "rows", out)
    written(manifest, out)


@data.command()
def build(
    imports: Annotated[Path, typer.Argument(help="the folder that fer data import wrote", metavar="IMPORTS")],
    out: OUT,
    param: PARAM = None,
) -> None:
    """Build the manifest of imported datasets: every image checked, val and its roles assigned."""
    from fer_lib.datasets.assemble import assemble
    from fer_lib.datasets.build import nested_counts

    params = strict.validate(ManifestParams, values_of(param), "manifest")
    if params.imports or params.output_dir:
        raise ParamsError("imports and output_dir are the command's own: fer data build IMPORTS -o OUT")
    if params.manifests:
        raise ParamsError("manifests are joined by fer data curate MANIFEST... -o OUT")
    with show_progress("build"):
        manifest = assemble(params, imports, [], out)
    show(views.count_table(nested_counts(manifest.frame), "Manifest"))
    save_pages(manifest, "Rows of the manifest", "rows", out)
    written(manifest, out)


@data.command()
def curate(
    manifests: Annotated[list[Path], typer.Argument(help="manifests, or their folders", metavar="MANIFEST...")],
    out: OUT,
    selection: Annotated[str, typer.Option(help="classification_manifest, test_all_sources, ...")] = "",
    param: PARAM = None,
) -> None:
    """Join manifests and choose rows: selections, filters, caps.  Every removed row is counted and listed."""
    from fer_lib.datasets.curate import curate as curated

    values = ({"selection": selection} if selection else {}) | values_of(param)
    params = strict.validate(CurateParams, values, "curate")
    with show_progress("curate"):
        manifest = curated([read_rows(path) for path in manifests], params, out)
    report = json.loads((out / "curation_report.json").read_text(encoding="utf-8"))
    show(views.steps_table(report), views.count_table(report["counts"]["by_source_split_label"], "Kept"))
    if report["sources_absent"]:
        typer.echo(f"warning: without {', '.join(report['sources_absent'])}, which are not there", err=True)
    save_pages(manifest, "Rows of the curated manifest", "rows", out)
    written(manifest, out)


@data.command()
def validate(
    manifest: MANIFEST,
    allow: Annotated[list[str] | None, typer.Option(help="a problem that does not count; may be repeated")] = None,
    as_json: JSON = False,
) -> None:
    """Check paths, images, boxes, duplicates over splits and labels.  Exit code 1 when something is wrong."""
    from fer_lib.datasets import validate as checks

    allowed = allow or []
    for kind in allowed:
        if kind not in checks.PROBLEMS:
            raise ParamsError(f"--allow {kind}: no such problem{strict.closest(kind, checks.PROBLEMS)}")
    rows = read_rows(manifest)
    with show_progress("validate"):
        report, findings = checks.validate(rows)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        facts = {
            "rows": report["rows_total"],
            "usable rows": report["rows_valid"],
            "pictures": report["decode"]["attempted"],
        }
        facts |= {f"duplicates: {name}": n for name, n in report["duplicates"].items() if n is not None}
        show(views.facts_table(str(manifest), facts), views.findings_table(findings, allowed))
    wrong = [f for f in findings if f.kind not in (*allowed, *checks.HARMLESS)]
    if wrong:
        kinds = ", ".join(f"{f.kind} {f.count:,}" for f in wrong)
        raise DataError(f"{manifest} is not valid: {kinds}; repair it, or --allow what is known and meant")
    if not as_json:
        used = [f.kind for f in findings if f.kind in allowed]
        typer.echo("valid" + (f" but for what was allowed: {', '.join(used)}" if used else ""))


@data.command()
def audit(manifest: MANIFEST, out: OUT, param: PARAM = None) -> None:
    """List images that are there twice, identically or nearly, and write the manifest without them.

    -p noise=true also looks for labels that look wrong, which trains small nets.
    """
    from fer_lib.audit import figures, label_errors
    from fer_lib.audit.manifest_audit import audit_manifest

    params = strict.validate(AuditParams, values_of(param), "audit")
    if params.manifest or params.output_dir:
        raise ParamsError("manifest and output_dir are the command's own: fer data audit MANIFEST -o OUT")
    rows, cache = read_rows(manifest), paths.mlruns() / "cache"
    with show_progress("audit"):
        audit = audit_manifest(params, rows, out, cache)
        drawn = {"matrices": figures.shared_groups(audit)}
        for name in figures.sheet_names(audit) if params.shown else ():
            drawn[name] = figures.group_sheet(audit, name, params.shown)
    show(*views.audit_tables(audit.summary))
    typer.echo(f"{params.remove}: {audit.summary['rule']}")
    if params.noise:
        with show_progress("audit"):
            doubted = label_errors.audit_labels(audit.clean, params.noise_nets, out, cache, seed=params.seed)
        drawn["noise_matrix"] = figures.noise_matrix(doubted)
        drawn["label_noise"] = figures.label_error_sheet(doubted, params.noise_nets.shown)
        typer.echo(f"{doubted.summary['flagged']:,} labels look wrong: {out / 'label_noise.csv'}")
    views.save_figures(drawn, out)
    written(audit.clean, out)


@data.command()
def stats(
    manifest: Annotated[Path, typer.Argument(help="a manifest, its folder, or a folder of imports")],
    as_json: JSON = False,
) -> None:
    """Count rows by source, split and label."""
    from fer_lib.datasets.build import duplicates, nested_counts

    rows = read_rows(manifest)
    frame = rows.frame
    counts = nested_counts(frame)
    facts = {"rows": len(frame), "pictures": int(frame["image_path"].nunique())}
    facts |= {f"val rows for {role}": int(n) for role, n in frame["val_role"].value_counts().items() if role}
    facts |= {f"rows with {name}": int(frame[name].notna().sum()) for name in ("bbox_top", "soft_label", "subject")
              if name in frame}  # fmt: skip
    facts |= {f"duplicates: {name}": n for name, n in duplicates(frame).items() if n is not None}
    if as_json:
        typer.echo(json.dumps({"counts": counts, "facts": facts, "sha256": rows.sha256}, indent=1))
    else:
        show(views.count_table(counts, str(manifest)), views.facts_table("", facts))


@data.command("export-csv")
def export_csv(
    manifest: MANIFEST,
    csv: Annotated[Path, typer.Argument(help="the file to write", metavar="CSV")],
    form: Annotated[Literal["short", "full"], typer.Option(help="4 columns, or 11 with the boxes")] = "full",
) -> None:
    """Write a manifest as an interchange CSV."""
    from fer_lib.datasets.interchange import unwritten_columns, write_csv

    rows = read_rows(manifest)
    typer.echo(f"{len(rows):,} rows in {write_csv(rows, csv, form)}; their paths are relative to {rows.root}")
    if lost := unwritten_columns(rows, form):
        typer.echo(f"not in a CSV, so still only in the manifest: {', '.join(lost)}")
