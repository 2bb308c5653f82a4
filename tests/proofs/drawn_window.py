"""A live window over drawn views, for a proof to press and click: ``python drawn_window.py STATES``.

Into the file STATES goes one JSON line of the controls a change, ``{"open": true}`` once the first view was taken, and
``{"over": true}`` when the window has gone.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))

from view_factory import make_view

from fer_lib.live.controls import Controls
from fer_lib.live.latest_value import LatestValue
from fer_lib.live.window import check_window, show
from fer_lib.params import SmoothingParams

TITLE = "fer live: drawn views"


def feed(session: SimpleNamespace) -> None:
    """30 views a second with what the controls say, until somebody ends it."""
    drawn, index = make_view(faces=3), 0
    while not session.controls.ended:
        index += 1
        session.latest_view.put(replace(drawn, index=index, time=index / 30, setting=session.controls.now))
        time.sleep(1 / 30)
    session.latest_view.end()


def report(session: SimpleNamespace, file: Path, closing: threading.Event) -> None:
    last = None
    with open(file, "a", encoding="utf-8", buffering=1) as out:
        while not closing.wait(0.02):
            now = session.controls.now
            said = {
                "label": now.label,
                "source": now.label_source,
                "overlay": now.overlay,
                **now.smoothing.model_dump(),
            }
            if said != last:
                out.write(json.dumps(said) + "\n")
                last = said
        out.write(json.dumps({"ended": session.controls.ended, "over": True}) + "\n")


def main(file: Path) -> None:
    session = SimpleNamespace(latest_view=LatestValue(), controls=Controls(SmoothingParams()))
    closing = threading.Event()
    check_window()
    threads = [
        threading.Thread(target=feed, args=(session,)),
        threading.Thread(target=report, args=(session, file, closing)),
    ]
    for thread in threads:
        thread.start()
    try:
        show(session, TITLE)
    finally:
        session.controls.end()
        closing.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
