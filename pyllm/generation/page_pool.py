"""Pages of key-value cache: lent, shared by texts that begin alike, kept for a while, lent again.

    free --allocate--> in use (references > 0) --release--> kept, where it has a key --evict, oldest first--> free
                              ^------------------share--------|

A page's key stands for its own tokens and all before them, so that equal keys mean equal contents.
"""

from __future__ import annotations

from collections import OrderedDict


class PagePool:
    """Pages 1 .. count; page 0 is never lent and stands for one that is not there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count, 0, -1))
        self._references = [0] * (count + 1)
        self._keys: list[bytes | None] = [None] * (count + 1)
        self._by_key: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # with a key and without references, oldest first

    @property
    def available(self) -> int:
        """Pages that `allocate` can lend."""
        return len(self._free) + len(self._kept)

    @property
    def in_use(self) -> int:
        """Pages that somebody holds."""
        return self.count - self.available

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def allocate(self) -> int:
        """A page of arbitrary contents; the one that was kept longest is given up where none is free."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._kept.popitem(last=False)
            key = self._keys[page]
            assert key is not None
            del self._by_key[key]
            self._keys[page] = None
        self._references[page] = 1
        return page

    def share(self, key: bytes) -> int:
        """The page of that key, which must be there, with one more holder."""
        page = self._by_key[key]
        self._kept.pop(page, None)
        self._references[page] += 1
        return page

    def publish(self, page: int, key: bytes) -> None:
        """From now on the page can be found; where another has the key already, that one is."""
        if key not in self._by_key and self._keys[page] is None:
            self._by_key[key], self._keys[page] = page, key

    def release(self, page: int) -> None:
        """One holder less."""
        self._references[page] -= 1
        if self._references[page]:
            return
        if self._keys[page] is None:
            self._free.append(page)
        else:
            self._kept[page] = None
