"""The one exception family that users are meant to read.

Every message names the thing, the place and the next step.  The command line prints it without a traceback.
"""


class FerError(Exception):
    """Something the user can act on: the message says what, where and what to do next."""


class ParamsError(FerError):
    """A parameter is unknown or ill-typed (the command line exits with 2)."""


class DataError(FerError):
    """A file, a row or a label of the data is wrong or missing."""


class BundleError(FerError):
    """A bundle, checkpoint or soft-label folder does not verify (hash, class order, contract, coverage)."""
