"""How far a long piece of work is: done, rate and time left, for a terminal and for a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how far something is: a bar on a terminal, else a line every tenth.

    Work that is done within a second shows nothing.

    Args:
        what: is being done, as "preparing ham10000".
        total: number of images.
        shown: False where another process shows it.

    Yields:
        A function to be told how many more are done.
    """
    if not shown:
        yield lambda count: None
        return
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=" images", delay=1, leave=False) as bar:
            yield lambda count: bar.update(count) and None
        return
    start = time.monotonic()
    num_done = 0

    def update(count: int) -> None:
        nonlocal num_done
        before, num_done = num_done, num_done + count
        seconds = time.monotonic() - start
        if num_done * 10 // total > before * 10 // total and seconds > 1:
            rate = num_done / seconds
            print(
                f"{what}: {num_done:,} of {total:,} images, {rate:,.0f} images/s, "
                f"{(total - num_done) / rate:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield update
