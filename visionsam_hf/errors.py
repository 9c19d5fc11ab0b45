"""The one error that is the user's to mend."""


class UserError(Exception):
    """A bad file, key or value: one line that names it, says what is wrong and what to do. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
