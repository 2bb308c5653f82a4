"""Exceptions for users, and the translation of operating-system errors into messages.

Every message says what is wrong, where, and what to do.  Library code raises FerError where it knows more than the
operating system.  Elsewhere an OSError passes through: the command line, a phase and the live page call `user_message`.
"""

from __future__ import annotations

import builtins
import errno
import re

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.EEXIST, errno.ENOTDIR}


class FerError(Exception):
    """Something the user can act on: the message says what, where and what to do next."""


class ParamsError(FerError):
    """A parameter is unknown or ill-typed (the command line exits with 2)."""


class DataError(FerError):
    """A file, a row or a label of the data is wrong or missing."""


class BundleError(FerError):
    """A bundle, checkpoint or soft-label folder does not verify (hash, class order, contract, coverage)."""


def disk_trouble(error: BaseException | None) -> str | None:
    """What to do when a full or read-only disk, or a locked database, caused ``error``, also through MLflow.

    None when the chain of causes has no such error.
    """
    while error is not None:
        number, text = getattr(error, "errno", None), str(error)
        if number in _FULL or "database or disk is full" in text:
            return "the disk is full: free some space and give the same command again; what is finished is kept"
        if number == errno.EROFS:
            return "the disk is read-only: set FER_HOME to a folder you can write, or make this one writable"
        if "attempt to write a readonly database" in text:  # SQLite says the same of a file that has gone
            return (
                "the store mlruns/mlflow.db was deleted or moved meanwhile, or is read-only: put it back, or "
                "set FER_HOME to a folder you can write, and give the same command again; what is finished is kept"
            )
        if "database is locked" in text:
            return (
                "another program, such as a backup, keeps the store mlruns/mlflow.db locked: end it and give the same "
                "command again; what is finished is kept"
            )
        error = error.__cause__ or error.__context__
    return None


def os_error_hint(error: OSError) -> str:
    """The next step after an OSError during writing."""
    if error.errno in _FULL:
        return "the disk, a quota or the file size limit is full: free some space or choose another output folder"
    if error.errno in _CLOSED:
        return "it is read-only for this user: choose another output folder"
    if error.errno == errno.ELOOP:
        return "a symbolic link is in the place of a file: remove it"
    if error.errno in _NOT_A_FOLDER:
        return "a file stands where a folder should be: move it away or choose another output folder"
    return "choose another output folder or repair this one"


def user_message(error: BaseException) -> str | None:
    """The message for a person; None when ``error`` is a defect of the program and needs its traceback.

    A FerError has its own message.  An OSError with a file name, and a full or read-only disk, are translated.
    """
    if isinstance(error, FerError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error.filename, int):
        reason = error.strerror or type(error).__name__
        if error.errno in _FULL | _NOT_A_FOLDER | {errno.EROFS, errno.ELOOP}:  # errors of writing, mostly
            return f"cannot use {path_text(error.filename)}: {reason} ({os_error_hint(error)})"
        return f"cannot read or write {path_text(error.filename)}: {reason}; check the path and its permissions"
    return disk_trouble(error)


def reported_message(name: str, text: str) -> str:
    """The message for an error that another process reported as class name and text, as a notebook's kernel does."""
    match = re.fullmatch(r"\[Errno (\d+)\] (.*?): ['\"](.*)['\"]", text, flags=re.DOTALL)
    kind = getattr(builtins, name, None)
    if match and isinstance(kind, type) and issubclass(kind, OSError):
        return user_message(OSError(int(match[1]), match[2], match[3])) or text
    return disk_trouble(Exception(text)) or text


def path_text(path: str | bytes) -> str:
    """The path as text that can be printed and written as UTF-8: bytes of a name that are no UTF-8 are escaped."""
    text = path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path
    return text.encode("utf-8", "backslashreplace").decode()
