"""Client of MLflow that loses its store."""


class FailingClient:
    """Passes `calls` calls to `client`; those after them call `fail`, which raises, instead."""

    def __init__(self, client, calls, fail):
        self.client, self.left, self.fail = client, calls, fail

    def __getattr__(self, name):
        self.left -= 1
        if self.left < 0:
            self.fail()
        return getattr(self.client, name)
