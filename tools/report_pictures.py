"""Pictures of reports for the documentation: verdicts, and accuracy against latency.

    python tools/report_pictures.py RUN... [--out docs/pictures] [--chromium PROGRAM]

For each run folder, writes a WebP named after its recipe: light colours, 1,200 pixels wide, from
the top of the page to the end of its trade-offs. For the first one, also writes a picture of a
phone's page in dark colours. The reports are drawn again from the run folders. Needs Chromium, and
Pillow, which the extra litert installs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from browser import Browser, browser
from PIL import Image

from edgekd.report import read_run, write_report

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, PHONE = 1200, 390
PHONE_HEIGHT = 1400
END = """(() => {
  const heads = [...document.querySelectorAll('h2')];
  const last = heads.find((each) => each.innerText == 'Latency') || heads.at(-1);
  return last.getBoundingClientRect().top + scrollY - 24; })()"""
"""The y coordinate of the end of the trade-offs on the page."""


def as_webp(png: bytes) -> bytes:
    """The picture as lossless WebP."""
    webp = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(webp, "WEBP", lossless=True, method=6)
    return webp.getvalue()


def pictures(window: Browser, run: Path, out: Path, folder: Path, *, phone: bool) -> list[Path]:
    """The pictures of `run`, with the phone's if `phone`."""
    name = str(read_run(run).result["name"])
    page, paths = folder / f"{name}.html", [out / f"{name}.webp"]
    write_report([run], page)
    window.show(page, WIDTH)
    paths[0].write_bytes(as_webp(window.picture(bottom=window.value(END))))
    if phone:
        paths.append(out / f"{name}-phone.webp")
        window.show(page, PHONE, dark=True)
        paths[1].write_bytes(as_webp(window.picture(bottom=PHONE_HEIGHT)))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=DOCS / "pictures")
    parser.add_argument("--chromium", default="chromium", metavar="PROGRAM")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with browser(args.chromium) as window, tempfile.TemporaryDirectory() as folder:
        for number, run in enumerate(args.runs):
            for path in pictures(window, run, args.out, Path(folder), phone=number == 0):
                print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
