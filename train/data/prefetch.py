"""Work ahead: the next items of an iterator are made in a thread while this one uses the last."""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def prefetched(items: Generator[T, None, None], ahead: int) -> Iterator[T]:
    """Yield the same items in the same order, at most `ahead` of them made before their turn; 0: none, no thread.

    What `items` raises is raised here, in its place. Closing the iterator, or leaving its loop, ends the thread, which
    finishes at most the item that it is making, and then closes `items`.
    """
    if not ahead:
        yield from items
        return
    free = threading.Semaphore(ahead)
    ready = SimpleQueue[tuple[str, Any]]()
    stopped = threading.Event()

    def work() -> None:
        try:
            while free.acquire() and not stopped.is_set():
                ready.put(("item", next(items)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:  # to be raised where somebody is waiting
            ready.put(("error", error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            free.release()
            yield item
            del item  # its memory is the user's to free
    finally:
        stopped.set()
        free.release()
        thread.join()
        items.close()
