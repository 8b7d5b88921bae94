"""The longest common prefix of two token sequences."""

__all__ = ["common_prefix"]


def common_prefix(a: list[int], b: list[int]) -> int:
    """The length of the longest common prefix of `a` and `b`, in tokens."""
    alike, unlike = 0, min(len(a), len(b))
    if a[:unlike] == b[:unlike]:
        return unlike
    while unlike - alike > 1:  # comparing slices is far faster than comparing tokens one by one
        middle = (alike + unlike) // 2
        if a[alike:middle] == b[alike:middle]:
            alike = middle
        else:
            unlike = middle
    return alike
