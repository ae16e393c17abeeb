from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyllm.generation.stopping import StopMatcher

words = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def first_stop(text: str, stop: list[str]) -> tuple[str, str | None]:
    """Reads character by character until one of `stop` has just ended; the longest if several have."""
    for end in range(1, len(text) + 1):
        ended = [s for s in stop if text[:end].endswith(s)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(text=words, stop=stops, cuts=st.sets(st.integers(0, 30)))
def test_any_cut_gives_what_reading_by_character_gives(text, stop, cuts):
    matcher = StopMatcher(stop)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    shown = "".join(matcher.feed(text[a:b]) for a, b in pairwise(borders))
    assert first_stop(text, stop)[0].startswith(shown), "showed a part of the stop string"
    assert (shown + matcher.finish(), matcher.matched) == first_stop(text, stop)


@given(text=words, stop=stops)
def test_nothing_is_held_back_without_need(text, stop):
    matcher = StopMatcher(stop)
    shown = "".join(matcher.feed(character) for character in text)
    if matcher.matched is None:
        held = text[len(shown) :]
        assert not held or any(s.startswith(held) for s in stop)
