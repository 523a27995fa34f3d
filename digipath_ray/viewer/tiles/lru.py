"""What is kept in memory to be quick, and never more of it than was said."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Values by key, at most so many bytes of them; the least used leave first."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self.most_bytes = most_bytes
        self._size = size
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def get(self, key: Hashable) -> Value | None:
        """The value, now the last used; None if it is not kept."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, unless it alone is too large."""
        size = self._size(value)
        with self._lock:
            old = self._values.pop(key, None)
            self._bytes -= 0 if old is None else self._size(old)
            if size > self.most_bytes:
                return
            self._values[key] = value
            self._bytes += size
            while self._bytes > self.most_bytes:
                _, gone = self._values.popitem(last=False)
                self._bytes -= self._size(gone)

    def make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value that is kept, else the one made now."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value
