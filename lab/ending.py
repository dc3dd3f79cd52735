"""How a script ends: one line for every foreseeable failure, and Ctrl-C and SIGTERM alike."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MOMENT = 0.05  # seconds after which an interrupt that was swallowed comes again
LONGEST_LINE = 900  # characters of an error
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what batch systems and `kill` send


class UserError(Exception):
    """Bad input or a missing file: one line that names the file, the value and the remedy. Exit status 2.

    Whatever the file or the value holds: what would break the line is shown escaped, and the middle of a long one left out.
    """

    def __init__(self, message: str):
        shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message)
        half = LONGEST_LINE // 2
        super().__init__(shown if len(shown) <= LONGEST_LINE else f"{shown[:half]} ... {shown[-half:]}")


def run_script(main: Callable[[], None], within: bool = False) -> None:
    """Call main; every foreseeable failure becomes one line on stderr and exit status 2.

    `within` another script, Ctrl-C is that one's to report: it may come when main is through, and ends both.
    """
    try:
        with terminated_as_interrupted():
            main()
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        if within:
            raise
        message = "interrupted; results already saved are intact"
    except (torch.OutOfMemoryError, MemoryError) as error:
        message = f"out of memory ({first_line(error)}): try --dtype bfloat16, a smaller --batch, or --device cpu"
    except RuntimeError as error:
        if not no_memory(error):
            raise
        message = f"out of memory ({first_line(error)}): try --dtype bfloat16 or a smaller --batch"
    else:
        return
    if processes()[0] == 0:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def no_memory(error: BaseException) -> bool:
    """Whether it says that memory does not suffice, on a GPU or the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """An error's message cut to one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def processes() -> tuple[int, int]:
    """(rank, number of processes) under `accelerate launch`; (0, 1) for a script run by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM is Ctrl-C, where nobody has said otherwise: what is half written goes, and one line says so.

    An interrupt that comes while a finalizer or a weak reference's callback runs is swallowed there, and comes again.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    numbers, unheard = (signal.SIGTERM, signal.SIGALRM), sys.unraisablehook

    def again(swallowed) -> None:
        if issubclass(swallowed.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, MOMENT)  # SIGALRM, once that callback is through
        else:
            unheard(swallowed)

    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    sys.unraisablehook = again
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = unheard
        for number, heard in zip(numbers, before):
            signal.signal(number, heard)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait: for what would swallow them, or must not be left by halves."""
    before, came = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}, []
    before = {number: heard for number, heard in before.items() if callable(heard)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    try:
        for number in before:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, heard in before.items():
            signal.signal(number, heard)
        if came:
            before[came[0]](came[0], None)
