"""The one exception that is meant for the user's eyes."""


class UserError(Exception):
    """Something the user can mend; the message names the file or key and the mend.

    `skinjax.main` prints it without a traceback and exits with status 2.
    """
