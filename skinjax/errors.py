"""The exceptions that are meant for the user's eyes."""


class UserError(Exception):
    """Something the user can mend; the message names the file or key and the mend.

    `skinjax.main` prints it without a traceback and exits with status 2.
    """


class ToldElsewhere(UserError):
    """What another process of the run has failed of; that one tells the user."""


class Interrupted(Exception):
    """A run was asked to stop and has saved; the message says how to go on.

    Attributes:
        exit_status: what `skinjax.main` exits with.
    """

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status
