"""How much two token sequences have in common at their beginning."""

__all__ = ["common_prefix"]


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens `a` and `b` begin with alike."""
    alike, unlike = 0, min(len(a), len(b))
    if a[:unlike] == b[:unlike]:
        return unlike
    while unlike - alike > 1:  # slices are compared by far faster than tokens one by one
        middle = (alike + unlike) // 2
        if a[alike:middle] == b[alike:middle]:
            alike = middle
        else:
            unlike = middle
    return alike
