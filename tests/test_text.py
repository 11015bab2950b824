"""Text that is cut to a length."""

from snvideo.text import shorten


def test_a_name_is_cut_in_its_middle() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("abcdefghij", 6) == "ab…hij"
    assert shorten("abcdefghij", 1) == "…"
    assert shorten("a\nb\udcffc\x00", 9) == "a b\ufffdc\ufffd"
