"""Many calls at one moment: threads that wait for each other and then all begin."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from anyscale_core.errors import CloudError

T = TypeVar("T")


def together(acts: Sequence[Callable[[], T]]) -> tuple[T | CloudError, ...]:
    """Begin all calls at once, each in a thread of its own; return what each returned, or its error of the tree, in order.

    Anything else that a call raises is raised here, once all have ended.
    """
    barrier = threading.Barrier(len(acts))
    results: list[T | CloudError | None] = [None] * len(acts)
    failures: list[BaseException] = []

    def run(place: int, act: Callable[[], T]) -> None:
        barrier.wait()
        try:
            results[place] = act()
        except CloudError as error:
            results[place] = error
        except BaseException as error:  # raised again below: a thread's own exception would only be printed
            failures.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
    return tuple(results)  # type: ignore[arg-type]  # None only where a failure was raised


def errors(results: Sequence[object]) -> tuple[CloudError, ...]:
    """Return the errors among the results."""
    return tuple(result for result in results if isinstance(result, CloudError))
