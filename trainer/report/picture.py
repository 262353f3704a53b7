"""loss.png: the loss curve for where a page cannot be shown. Pillow alone draws it, the chart is the page's."""

import io
from typing import Any

from trainer.report.chart import Chart, chart
from trainer.report.history import History
from trainer.report.page import printable
from trainer.report.panels import loss_curves

WIDTH, HEIGHT = 1200, 640
LEFT, RIGHT, TOP, BOTTOM = 90, 40, 80, 70
"""Pixels around the chart."""
SCALE = 2
"""Drawn larger and made smaller again: Pillow's lines have no smooth edges of their own."""
COLOURS = {1: (36, 104, 168), 2: (196, 80, 27)}
"""By a curve's colour, as on the page."""
PALE = (166, 194, 220)
"""Of single steps."""
INK, FAINT, RULE, PAPER = (29, 28, 26), (103, 100, 94), (227, 225, 220), (255, 255, 255)


def picture(history: History) -> bytes | None:
    """A PNG of training and held-out loss over the steps; None before there is a loss."""
    from PIL import Image, ImageDraw

    loss = chart(loss_curves(history), steps=float(history.step))
    if loss is None:
        return None
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    _words(draw, history.run, loss)
    for tick, _ in loss.ticks_y:
        draw.line([_place(0, tick), _place(1, tick)], RULE, SCALE)
    for one in loss.curves:
        points = [_place(x, y) for x, y in one.points]
        raw, colour = one.curve.look == "raw", COLOURS[one.curve.colour]
        draw.line(points, PALE if raw else colour, SCALE * (1 if raw else 3), joint="curve")
        if one.curve.look == "dots" or len(points) == 1:
            for x, y in points:
                draw.circle((x, y), 5 * SCALE, colour)
    out = io.BytesIO()
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()


def _place(x: float, y: float) -> tuple[float, float]:
    """Fractions of the chart -> a point of the large image."""
    across = LEFT + x * (WIDTH - LEFT - RIGHT)
    return across * SCALE, (HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)) * SCALE


def _words(draw: Any, run: str, loss: Chart) -> None:
    """Title, what the lines are, and the ticks' numbers."""
    from PIL import ImageFont

    large, small = ImageFont.load_default(24 * SCALE), ImageFont.load_default(18 * SCALE)

    def write(x: float, y: float, text: str, anchor: str, font: Any = small, colour: Any = FAINT) -> float:
        draw.text((x * SCALE, y * SCALE), text, colour, font, anchor)
        return float(draw.textlength(text, font)) / SCALE

    write(LEFT, 34, printable(run)[:60], "lm", large, INK)
    right = float(WIDTH - RIGHT)
    for one in loss.curves[::-1]:
        colour = PALE if one.curve.look == "raw" else COLOURS[one.curve.colour]
        right -= write(right, 34, one.curve.name, "rm", colour=colour) + 24
    for y, label in loss.ticks_y:
        write(LEFT - 12, _place(0, y)[1] / SCALE, label, "rm")
    for x, label in loss.ticks_x:
        write(_place(x, 0)[0] / SCALE, HEIGHT - BOTTOM + 22, label, "mm")
    write(WIDTH - RIGHT, HEIGHT - 18, "steps; loss in nats per token", "rm")
