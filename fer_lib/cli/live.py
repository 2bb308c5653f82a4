"""``fer live``: a camera or a file, live; ``fer live replay`` and ``fer live buffer`` for sessions that were kept."""

from __future__ import annotations

import atexit
import signal
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fer_lib.cli.data_files import values_of
from fer_lib.cli.options import ModelOption
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import ParamsError
from fer_lib.params import BufferParams, LiveParams, SmoothingParams
from fer_lib.params.strict import validate
from fer_lib.pipeline.progress import show_progress
from fer_lib.storage import paths
from fer_lib.storage.progress import step

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def live(
    context: typer.Context,
    source: Annotated[
        str, typer.Option(help="A camera's number or a video file; with --web also browser.", show_default="0")
    ] = "",
    model: ModelOption = "",
    detector: Annotated[
        Literal["auto", "yunet", "dnn", "haar"], typer.Option(help="What finds faces; auto: yunet.")
    ] = "auto",
    detector_model: Annotated[
        Path | None, typer.Option(help="YuNet's file, or the SSD's caffemodel with its prototxt beside it.")
    ] = None,
    detect_scale: Annotated[float, typer.Option(help="YuNet looks at images reduced by this.")] = 0.5,
    detect_every: Annotated[
        int, typer.Option(help="Frames from one search to the next; between, faces are followed.")
    ] = 3,
    output: Annotated[Path | None, typer.Option(help="Folder of the logs. Default: a new one in mlruns/live.")] = None,
    record: Annotated[
        Literal["none", "annotated", "raw", "both"], typer.Option(help="Keep a video; raw is what a replay needs.")
    ] = "none",
    temperature: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    logit_bias: Annotated[Path | None, typer.Option(help="A logit_bias.json, instead of the bundle's.")] = None,
    abstain: Annotated[
        str,
        typer.Option(help="Below this probability a label is Unknown: one share, or 7 with commas, Angry first."),
    ] = "",
    smoothing: Annotated[
        str, typer.Option(help="Average, margin, vote window, votes needed, with commas.", show_default="0.7,0.08,15,8")
    ] = "",
    threads: Annotated[int, typer.Option(help="Threads of the model; 0: the runtime's choice.")] = 1,
    paced: Annotated[
        bool, typer.Option("--paced", help="With --headless: play a file at its own speed, as windows and pages do.")
    ] = False,
    headless: Annotated[bool, typer.Option("--headless", help="No window: the same logs.")] = False,
    web: Annotated[bool, typer.Option("--web", help="A page in the browser, on this machine only.")] = False,
    port: Annotated[int, typer.Option(help="Of the page; 0: any free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Recognise expressions live, with a calm label, and log each frame.

    In the window: keys 1 to 7 (or the bar) say what is really shown, c clears that, q ends.  fer score DIR measures it.
    """
    if context.invoked_subcommand:
        return
    if headless and web:
        raise ParamsError("--headless and --web: give one of them")
    options = dict(
        source=source or ("browser" if web else "0"), model=model, detector=detector, detector_model=detector_model,
        output=output, detect_scale=detect_scale, detect_every=detect_every, record=record, temperature=temperature,
        logit_bias=logit_bias, abstention=_shares(abstain), smoothing=_smoothing(smoothing), threads=threads,
        paced=paced or not headless,
    )  # fmt: skip
    p, folder = parameters(**options)
    # By then all is written and told: a late second Ctrl+C must not turn a session that ended well into a killed one.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if web:
        from fer_lib.cli.live_page import serve

        _say_model(p.model)
        _print_result(serve(p, folder, port, open_browser), folder)
        return
    if p.source == "browser":
        raise ParamsError("--source browser is the camera of the page: add --web")
    if not headless:
        from fer_lib.live.window import check_window

        check_window()
    _say_model(p.model)
    _print_result(_session(p, folder, headless), folder)


def _say_model(uri: str) -> None:
    from fer_lib.tracking.registry import describe

    typer.echo(f"model: {describe(uri)}", err=True)


def parameters(**options: Any):
    """LiveParams and the session's folder; ParamsError for a value that is out of range."""
    from fer_lib.tracking.registry import default_uri

    values = {k: str(v) if isinstance(v, Path) else v for k, v in options.items() if v is not None}
    values["model"] = values.get("model") or default_uri()
    p = validate(LiveParams, values, "live")
    return p, Path(p.output) if p.output else _new_folder()


def _new_folder() -> Path:

    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = paths.mlruns() / "live" / name, 1
    while folder.exists():  # two that begin in one second
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _session(p, folder: Path, headless: bool) -> dict[str, Any]:
    from fer_lib.live.session import wait_until_end
    from fer_lib.tracking.live import open_session

    with show_progress("live"), step("loading model, opening camera"):
        session = open_session(p, folder)
    signal.signal(signal.SIGTERM, lambda *_: session.controls.end())
    session.start()
    if headless:
        typer.echo(f"{p.source}: logging to {folder}; Ctrl+C ends it", err=True)
    else:
        _show(session, f"fer live: {p.source}")
    return wait_until_end(session)


def _show(session, title: str) -> None:
    """The window; Ctrl+C ends the session as q does, and what breaks the window is told once the logs are closed."""
    from fer_lib.live.session import wait_until_end
    from fer_lib.live.window import show

    try:
        show(session, title)
    except KeyboardInterrupt:
        session.controls.end()
    except BaseException:
        session.controls.end()
        wait_until_end(session)
        raise


def _print_result(summary: dict[str, Any], folder: Path) -> None:
    from fer_lib.live.session_writer import NORMAL_END

    latency = summary["latency_ms"] or {}
    pace = f"{summary['fps']:.1f} frames/s" if summary["fps"] else "no pace"
    parts = [f"{summary['frames']:,} frames", pace, *(f"{k} {v:.1f} ms" for k, v in latency.items())]
    if summary["dropped"]:
        parts.append(f"{summary['dropped']:,} dropped")
    typer.echo(f"{', '.join(parts)}\nwritten: {folder}")
    if summary["end"] != NORMAL_END:
        typer.echo(summary["end"], err=True)


def _shares(text: str) -> list[float] | None:

    values = _numbers("--abstain", text)
    return values * NUM_CLASSES if values is not None and len(values) == 1 else values


def _smoothing(text: str) -> dict[str, float] | None:

    values, names = _numbers("--smoothing", text), list(SmoothingParams.model_fields)
    if values is None:
        return None
    if len(values) != len(names):
        raise ParamsError(f"--smoothing {text}: it takes {', '.join(names)}, with commas")
    return {n: int(v) if n.startswith("vote") and v == int(v) else v for n, v in zip(names, values, strict=True)}


def _numbers(option: str, text: str) -> list[float] | None:

    try:
        return [float(x) for x in text.split(",")] if text else None
    except ValueError as error:
        raise ParamsError(f"{option} {text}: write numbers with commas between them") from error


@app.command()
def buffer(
    session: Annotated[
        Path, typer.Argument(help="Folder of a session that was recorded with --record raw.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the buffer. Default: SESSION/buffer.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="As in -p cap=100.")
    ] = None,
) -> None:
    """Choose the faces that may be learned from, and write them with what each may teach."""
    import pandas as pd

    from fer_lib.adapt.buffer import read_report, write_buffer

    p = validate(BufferParams, values_of(param), "live buffer")
    folder = out or session / "buffer"
    with show_progress("buffer"):
        manifest = write_buffer(session, folder, p)
    report = read_report(folder)
    heads = {"positive": f"positive (p >= {p.positive:g})", "corrected": "is not (by hand)", "negative": "is not"}
    print(f"{report['rows']:,} of {report['frames']:,} frames of {Path(report['session']).name}")
    print(pd.DataFrame(report["counts"])[[*heads]].rename(columns=heads).to_string())
    left_out = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in report["left_out"].items() if n)
    print(f"left out: {left_out or 'none'}")
    for note in report["notes"]:
        print(note)
    print(f"{len(manifest):,} rows in {folder} (sha256 {manifest.sha256[:12]})")
    print(f"to learn from them: notebook 11_adapt with buffers: [{folder}]")


@app.command()
def replay(
    session: Annotated[Path, typer.Argument(help="Folder that fer live wrote.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model that is asked instead, written as for fer live.")] = "packaged",
    out: Annotated[Path | None, typer.Option(help="New session's folder. Default: SESSION-MODEL beside it.")] = None,
) -> None:
    """Ask another model about a kept session: same images, faces, labels and smoothing."""
    from fer_lib.live.replay import replay as ask
    from fer_lib.models.bundle import read_bundle
    from fer_lib.tracking.live import log_replay
    from fer_lib.tracking.registry import resolve

    _say_model(model)
    with show_progress("replay"):
        folder = ask(session, read_bundle(resolve(model)), model, out)
        log_replay(folder)
    typer.echo(f"written: {folder}\nmeasure it: fer score {folder}")
