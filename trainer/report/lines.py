"""Lines of a chart as numbers: thinned so that a page stays small, smoothed so that a noisy loss can be read."""

from array import array
from dataclasses import dataclass, field

MOST_POINTS = 1000
"""Of one drawn line."""


@dataclass(frozen=True)
class Line:
    """One quantity over the steps, both of the same length; steps ascend, values are finite."""

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, step: float, value: float) -> None:
        """One more point."""
        self.steps.append(step)
        self.values.append(value)


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """At most `most` (>= 4) of the points: first, last, and of each stretch between the lowest and the highest, so
    that no spike is lost."""
    count = len(line)
    if count <= most:
        return line
    kept = {0, count - 1}
    stretches = (most - 2) // 2
    for number in range(stretches):
        stretch = range(number * count // stretches, (number + 1) * count // stretches)
        kept |= {min(stretch, key=line.values.__getitem__), max(stretch, key=line.values.__getitem__)}
    places = sorted(kept)
    return Line(array("d", (line.steps[i] for i in places)), array("d", (line.values[i] for i in places)))


def smoothed(line: Line) -> Line:
    """The running mean, with weights that fall by e over a fortieth of all points, and over eight of few."""
    keep = 1 - 1 / max(8.0, len(line) / 40)
    total, weight, means = 0.0, 0.0, array("d")
    for value in line.values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return Line(line.steps, means)
