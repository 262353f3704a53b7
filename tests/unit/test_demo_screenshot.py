"""A screenshot has what the command really showed, in colour, and asks for nothing from anywhere."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[2]
KCTL = str(Path(sys.executable).with_name("kctl"))
LIVE = "print('\\x1b[?1049hlive\\x1b[?1049l\\x1b[32mleft\\x1b[0m behind', flush=True); import time; time.sleep(60)"


def taken(tmp_path: Path, *words: str) -> tuple[str, str]:
    """(the SVG, the text in it)"""
    path = tmp_path / "shots" / "one.svg"
    subprocess.run(
        [sys.executable, "-m", "demo.screenshot", "--seconds", "2", str(path), *words], check=True, timeout=60
    )
    svg = path.read_text(encoding="utf-8")
    text = "".join(ElementTree.fromstring(svg).itertext())
    return svg, re.sub(r"\s+", " ", text.replace("\xa0", " "))


def test_a_command_that_ends(tmp_path: Path) -> None:
    svg, text = taken(tmp_path, KCTL, "submit", "lora_di3", "--matrix", "train.lora.rank=32,64", "--dry-run", "client")
    assert text.count("created (dry run)") == 2 and "RESULT" in text and "can change between attempts" in text
    assert "$ kctl submit lora_di3 --matrix" in text and str(Path(KCTL).parent) not in svg
    assert re.findall(r"\w+://[^\s\"<]+", svg) == ["http://www.w3.org/2000/svg"]


def test_of_a_live_screen_what_it_leaves(tmp_path: Path) -> None:
    svg, text = taken(tmp_path, sys.executable, "-c", LIVE)
    assert text.rpartition("sleep(60)'")[2].startswith(" left behind Traceback")
    assert "fill: #" in svg


def test_the_pictures_of_the_readme() -> None:
    readme, script = ((ROOT / name).read_text() for name in ("README.md", "demo/screenshots.sh"))
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert len(pictures) == 4 == readme.count(".svg)")
    for path in pictures:
        svg = path.read_text(encoding="utf-8")
        text = "".join(ElementTree.fromstring(svg).itertext())
        assert len(svg) < 60_000 and re.findall(r"\w+://[^\s\"<]+", svg) == ["http://www.w3.org/2000/svg"]
        assert not re.search(r"/(home|root|Users|work|var|tmp/(?!kctl/))", text), "a folder of somebody's machine"
        assert not re.search(r"@font-face|<script|<image|\bhf_|[Tt]oken[=:]", svg)
        assert f"(docs/{path.name})" in readme and f"shot {path.stem} " in script
        command = re.search(r"\$ (kctl .*)", text.replace("\xa0", " "))
        assert command and command[1].strip() in script, "taken anew by what the script says"
