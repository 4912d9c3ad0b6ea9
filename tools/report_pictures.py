"""Pictures of reports for the documentation: the verdicts, and what accuracy costs.

    python tools/report_pictures.py RUN... [--out docs/pictures] [--chromium PROGRAM]

Of each run folder, a WebP named after its recipe, light, 1,200 pixels wide, from the head of the
page to the end of its trade-offs; and of the first one a phone's picture in dark colours. The
reports are drawn anew from what the runs hold. Needs Chromium, and Pillow, which the extra litert
brings.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from browser import Browser, browser
from PIL import Image

from edgekd.report import read_run, write_report

WIDTH, PHONE = 1200, 390
PHONE_HEIGHT = 1400
END = """(() => {
  const heads = [...document.querySelectorAll('h2')];
  const last = heads.find((each) => each.innerText == 'Latency') || heads.at(-1);
  return last.getBoundingClientRect().top + scrollY - 24; })()"""
"""Where on the page the trade-offs end."""


def as_webp(png: bytes) -> bytes:
    """The picture in fewer bytes: of few colours, without loss."""
    found = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(found, "WEBP", lossless=True, method=6)
    return found.getvalue()


def pictures(shown: Browser, run: Path, out: Path, folder: Path, *, phone: bool) -> list[Path]:
    """The files made of `run`, the phone's where it is asked for."""
    name = str(read_run(run).result["name"])
    page, made = folder / f"{name}.html", [out / f"{name}.webp"]
    write_report([run], page)
    shown.show(page, WIDTH)
    made[0].write_bytes(as_webp(shown.picture(bottom=shown.value(END))))
    if phone:
        made.append(out / f"{name}-phone.webp")
        shown.show(page, PHONE, dark=True)
        made[1].write_bytes(as_webp(shown.picture(bottom=PHONE_HEIGHT)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    here = Path(__file__).parents[1]
    parser.add_argument("--out", type=Path, default=here / "docs" / "pictures")
    parser.add_argument("--chromium", default="chromium", metavar="PROGRAM")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    with browser(words.chromium) as shown, tempfile.TemporaryDirectory() as folder:
        for number, run in enumerate(words.runs):
            for path in pictures(shown, run, words.out, Path(folder), phone=number == 0):
                print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
