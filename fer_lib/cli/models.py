"""``fer models``: what is registered here."""

import json
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the registered models: versions, aliases and headline numbers."""
    from fer_lib.storage import paths
    from fer_lib.tracking import registry

    rows = registry.list_models() if (paths.home() / "mlruns" / "mlflow.db").is_file() else []
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("No model is registered here yet. Train one with: fer run params/quickstart.yaml")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Registered models", title_justify="left", padding=0)
    table.add_column("Model", overflow="fold")
    for column in ("Macro-F1", "Accuracy", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)  # half a number misleads
    table.add_column("Measured on", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Created (UTC)", overflow="fold")
    for row in rows:
        numbers = ["" if row[k] is None else f"{row[k]:.4f}" for k in ("macro_f1", "accuracy", "ece")]
        size = "" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f} MB"
        title = f"{row['name']}/{row['version']}" + "".join(f" @{alias}" for alias in row["aliases"])
        table.add_row(
            title, *numbers, f"{row['measured_on'] or ''}\n{row['evalset_id'] or ''}", size,
            row["created"][:16].replace("T", " "),
        )  # fmt: skip
    console = Console()
    console.print(table)
    if len({row["evalset_id"] for row in rows}) > 1:
        console.print("Numbers of different evaluation sets are not comparable.", style="yellow")
