"""House rule on lengths: a module has at most 300 lines, a function at most 60. Run by `make check`."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 300
FUNCTION_LINES = 60
FOLDERS = ("kctl", "trainer", "demo", "tests")


def too_long(path: Path) -> Iterator[str]:
    """One sentence for the module and for each function beyond its cap; nested functions count by themselves too."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MODULE_LINES:
        yield f"{path}: {lines} lines, at most {MODULE_LINES}: split it by what it owns"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def main(root: Path) -> int:
    """Print the offenders below `root`; exit code 1 where there are any."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    offenders = [sentence for path in paths for sentence in too_long(path)]
    print("\n".join(offenders) or f"lengths: {len(paths)} modules are within their limits")
    return 1 if offenders or not paths else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
