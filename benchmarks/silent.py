"""What a measured run says: nothing."""

import contextlib


class Silent:
    """A console and a board that show nothing."""

    @contextlib.contextmanager
    def training(self, total, done):
        yield lambda *_: None

    def __getattr__(self, name):
        return lambda *_, **__: None
