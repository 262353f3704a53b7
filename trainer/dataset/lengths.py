"""How much to leave out so that an item fits, without tokenising once for every part."""

from collections.abc import Callable, Sequence


def fewest_dropped(costs: Sequence[int], over: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest n > 0 for which fits(n), or None if not even fits(len(costs)).

    costs: tokens that each part is thought to save, in dropping order; over: tokens too many. fits() tokenises, so
    it is asked about the estimate and its neighbours only (twice as far at each further step).
    """
    if not costs:
        return None
    saved = estimate = 0
    while estimate < len(costs) and saved < over:
        saved += costs[estimate]
        estimate += 1
    fails, good = 0, max(estimate, 1)
    stride = 1
    while not fits(good):
        if good == len(costs):
            return None
        fails, good, stride = good, min(good + stride, len(costs)), stride * 2
    stride = 1
    while good - fails > 1:
        middle = max(good - stride, (good + fails) // 2)
        if fits(middle):
            good, stride = middle, stride * 2
        else:
            fails = middle
    return good
