"""SIGTERM, SIGHUP and Ctrl-C end a program within ten seconds and in good order. Standard library only.

The first signal raises `Interrupted` where the program stands, or, within `deferred`, at the end of that block; later ones are ignored.
Where Python cannot react, because an import or a compiler is at work, a thread ends the process, though never within `commit`.
"""

import contextlib
import os
import signal
import socket
import threading
import time

CODES = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
LAUNCHED = "KERAS_VAE_LAUNCHED"  # set in the environment of the workers that `launch` starts
GRACE = 8.0  # seconds a program has to end by itself


class Interrupted(BaseException):
    """A signal asks the program to end. Not an `Exception`: nobody who expects errors may swallow it."""


class _Process:
    """What this process was sent, and what it is doing."""

    first: signal.Signals | None = None
    deferring = False
    handling: tuple[signal.Signals, ...] = ()
    committing = threading.Lock()


def pending() -> signal.Signals | None:
    """The first signal that came, if one did."""
    return _Process.first


@contextlib.contextmanager
def deferred():
    """A block that ends by itself soon after `pending`, which it yields; then `Interrupted` is raised."""
    _Process.deferring = True
    try:
        yield pending
    finally:
        _Process.deferring = False
    if pending():
        raise Interrupted


def commit():
    """A block during which the process is not ended from outside Python."""
    return _Process.committing


@contextlib.contextmanager
def handled(farewell):
    """Handle the signals within the block; `farewell()` speaks for a process that has to be ended. What is ignored (nohup) stays so."""
    numbers = [number for number in CODES if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python handles signals in the main thread only
    before = {number: signal.getsignal(number) for number in numbers}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_watch, args=(reader, farewell), daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False) if numbers else -1
    try:
        _Process.handling = tuple(numbers)
        again()
        yield
    finally:
        _Process.handling = ()
        # After a signal the program is about to end, and the thread sees to it; Python's own end may take a while.
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if pending() else handler)
        if not pending():
            if numbers:
                signal.set_wakeup_fd(wakeup)
            writer.close()
            thread.join()


def again() -> None:
    """Put the handlers back in place, where a library has replaced them."""
    if _Process.handling and threading.current_thread() is threading.main_thread():
        for number in _Process.handling:
            signal.signal(number, _handle)


@contextlib.contextmanager
def alarm(seconds: int):
    """A block that lasts so long at most: then the kernel ends the process, whatever it is doing. In the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def receive(number: int) -> None:
    """Take a signal that another process was sent as one's own."""
    if not pending():
        _Process.first = signal.Signals(number)


def _handle(number, _) -> None:
    if pending():
        return
    _Process.first = signal.Signals(number)
    if not _Process.deferring:
        raise Interrupted


def _watch(reader, farewell) -> None:
    """End the process `GRACE` seconds after its first signal. The C handler wakes this thread, whatever the main thread is doing."""
    with reader:
        while number := reader.recv(1):
            if number[0] in CODES:
                time.sleep(GRACE)
                with commit():
                    farewell()
                    os._exit(CODES[number[0]])
