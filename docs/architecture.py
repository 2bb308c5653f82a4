"""Draws docs/pictures/architecture.png from the library's imports, or prints the rooms' sizes.

    python docs/architecture.py          the drawing
    python docs/architecture.py --size   lines of each room beside its limit in pyproject.toml

The rows are the layers that import-linter checks.  An arrow is a direct import between two rooms; one that already
follows from other arrows is left out.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "architecture.png"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
# Rooms that step aside, so that no arrow between distant layers runs behind them.
SHIFTS = {
    "report": 1.3, "tracking": 2.2, "audit": -3.4, "deploy": 1.3, "training": -0.9, "models": 1.8, "importers": -2.6,
    "synthetic": 2.6, "datasets": -0.2,
}  # fmt: skip


def layers() -> list[list[str]]:
    """Rooms per layer, the highest first, as the contract in pyproject.toml lists them; the last: single modules."""
    [contract] = [c for c in SETTINGS["importlinter"]["contracts"] if c["id"] == "layers"]
    return [[room.strip() for room in line.replace(":", "|").split("|")] for line in contract["layers"]]


def lines(room: str) -> int:
    """Lines of Python in a room, blank lines and docstrings included."""
    package = ROOT / "fer_lib"
    files = package.glob(f"{room}.py") if not (package / room).is_dir() else (package / room).rglob("*.py")
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def arrows(rooms: list[str]) -> list[tuple[str, str]]:
    """(importer, imported) of rooms, without those that follow from the others."""
    import grimp

    graph = grimp.build_graph("fer_lib", cache_dir=None)
    for room in rooms:
        if graph.find_children(f"fer_lib.{room}"):
            graph.squash_module(f"fer_lib.{room}")
    direct = {
        room: {name.removeprefix("fer_lib.") for name in graph.find_modules_directly_imported_by(f"fer_lib.{room}")}
        & (set(rooms) - {room})
        for room in rooms
    }
    reached: dict[str, set[str]] = {}
    for room in reversed(rooms):  # imports point down, so what a room imports has been visited
        reached[room] = direct[room].union(*(reached[other] for other in direct[room]))
    kept = {room: {o for o in direct[room] if not any(o in reached[x] for x in direct[room])} for room in rooms}
    return [(room, other) for room in rooms for other in sorted(kept[room])]


def draw(path: Path) -> None:
    """Write the drawing as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    rows = layers()[:-1]  # the single modules below are imported by every room
    figure = Figure(figsize=(9, 11), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(0.2, len(rows) + 1.2))
    axes.axis("off")
    places = {}
    for i, rooms in enumerate(rows):
        for j, room in enumerate(rooms):
            x = 5 + (j - (len(rooms) - 1) / 2) * 4.4 + SHIFTS.get(room, 0)
            places[room] = (x, len(rows) - i + 0.4)
    for a, b in arrows(list(places)):
        (x0, y0), (x1, y1) = places[a], places[b]
        axes.annotate(
            "", (x1, y1 + 0.27), (x0, y0 - 0.27),
            arrowprops={"arrowstyle": "-|>", "color": "#6b7f99", "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    for room, (x, y) in places.items():
        corner, shape = (x - 1.15, y - 0.26), "round,pad=0,rounding_size=0.1"
        box = FancyBboxPatch(corner, 2.3, 0.52, shape, fc="#eef3f9", ec="#33475b", zorder=3)
        axes.add_patch(box)
        axes.text(x, y + 0.06, room, ha="center", va="center", fontsize=12, zorder=4, weight="bold", color="#1d2b3a")
        axes.text(
            x, y - 0.15, f"{lines(room):,} lines", ha="center", va="center", fontsize=7.5, zorder=4, color="#51657a"
        )
    axes.text(5, 0.6, "below every room: " + ", ".join(layers()[-1]), ha="center", fontsize=9, color="#51657a")
    FigureCanvasAgg(figure)
    figure.savefig(path)


def size_table() -> str:
    """Lines of each room, its limit and whether the limit holds."""
    limits = SETTINGS["fer-lab"]["room-lines"]
    rooms = [room for row in layers() for room in row]
    rest = lines("__init__") + lines("setup_environment")
    table = [f"{'room':<16}{'lines':>8}{'at most':>9}"]
    for room in rooms:
        if room in limits:
            over = "" if lines(room) <= limits[room] else f"   {lines(room) - limits[room]:,} over"
            table.append(f"{room:<16}{lines(room):>8,}{limits[room]:>9,}{over}")
    total = rest + sum(map(lines, rooms))
    table.append(f"{'whole library':<16}{total:>8,}{limits['library']:>9,}")
    return "\n".join(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="store_true", help="print lines per room instead of drawing")
    if parser.parse_args().size:
        print(size_table())
    else:
        draw(PICTURE)
        print(PICTURE.relative_to(ROOT))
