"""A thread-safe LRU cache limited by bytes, on :class:`cachetools.LRUCache`."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Values by key within ``most_bytes``, evicted by least recent use; thread-safe."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self.most_bytes = most_bytes
        # cachetools is not thread-safe: even a read reorders its entries.
        self._lock = threading.Lock()
        self._values: LRUCache[Hashable, Value] = LRUCache(most_bytes, getsizeof=size)

    @property
    def nbytes(self) -> int:
        """Current size, bytes."""
        return int(self._values.currsize)

    def get(self, key: Hashable) -> Value | None:
        """Value of a key, marked as most recently used; None if not cached."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Cache a value, unless it alone exceeds the limit."""
        with self._lock:
            # An outdated value must not survive a new one that is too large.
            self._values.pop(key, None)
            try:
                self._values[key] = value
            except ValueError:  # larger than the whole cache
                return

    def make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Cached value, else the one built by ``make``, outside of the lock."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value
