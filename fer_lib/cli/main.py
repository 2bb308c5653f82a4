"""``fer``: looks up the subcommand in a table and imports only that one, so that ``fer --help`` answers at once."""

from __future__ import annotations

import difflib
import importlib
import sys

from fer_lib.errors import ParamsError, user_message

COMMANDS: dict[str, tuple[str, str]] = {  # name -> (module:function or module:typer app, what it does)
    "run": ("fer_lib.cli.run:run", "run the phases of a params file"),
    "sweep": ("fer_lib.cli.sweep:sweep", "run a params file under every combination of some values, and compare"),
    "check": ("fer_lib.cli.check:check", "check device, store and disk"),
    "data": ("fer_lib.cli.data:data", "import, build, curate, validate and count datasets"),
    "predict": ("fer_lib.cli.predict:predict", "name the expressions in images"),
    "live": ("fer_lib.cli.live:app", "recognise expressions on a camera or a video, in a window, a page or headless"),
    "score": ("fer_lib.cli.score:score", "score a live session against its manual labels; study its smoothing"),
    "onnx": ("fer_lib.cli.onnx:onnx", "write a model or a checkpoint alone as an ONNX file, proved and timed"),
    "weights": ("fer_lib.cli.weights:app", "list the starting weights of backbones, and convert them"),
    "models": ("fer_lib.cli.models:models", "list the registered models, their aliases and headline metrics"),
    "runs": ("fer_lib.cli.runs:app", "list recent runs; end dead ones with: fer runs reap"),
    "report": ("fer_lib.cli.report:report", "export a run and render its page"),
    "ui": ("fer_lib.cli.ui:ui", "open MLflow's page on this machine"),
}


def usage() -> str:
    """The text of ``fer --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    head = "Usage: fer COMMAND [OPTIONS]\n\nFacial expression recognition that can be trusted.\n\nCommands:\n"
    return head + "\n".join(lines) + "\n\nfer COMMAND --help explains one; fer --version prints the version."


def main(arguments: list[str] | None = None) -> None:
    """Run ``fer`` and exit: 0 fine, 1 an error with a message on stderr, 2 a wrong parameter or option."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("--help", "-h"):
        print(usage())
        sys.exit(0)
    if arguments[0] == "--version":
        from fer_lib import __version__

        print(f"fer {__version__}")
        sys.exit(0)
    name = arguments[0]
    try:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
            hint = f" (closest: {near[0]!r})" if near else "; see: fer --help"
            raise ParamsError(f"there is no command {name!r}{hint}")
        _call(name, arguments[1:])
    except ParamsError as error:
        print(f"fer: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        print(f"fer: {message}", file=sys.stderr)
        sys.exit(1)


def _call(name: str, arguments: list[str]) -> None:
    import typer

    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        app = target
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command()(target)
    app(arguments, prog_name=f"fer {name}")


if __name__ == "__main__":
    main()
