"""What ends a command without being its bug: the user's mistake, and the user's wish."""

import signal


class UserError(Exception):
    """A bad file, key or value: one line that names it, says what is wrong and what to do. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class Interrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C. Exit code 128 plus the signal's number.

    Args:
        number: the signal.
        advice: how the work goes on.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        self.number = number
        how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(
            f"stopped by {how}; {advice or 'nothing half-written is left; the same command starts it again'}"
        )
