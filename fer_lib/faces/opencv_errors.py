"""What an OpenCV error says, in one line."""

import re

_REASON = re.compile(r"error: \(-?\d+:[^)]*\) (?P<reason>.*?)(?: in function '[^']*')?\s*$", re.DOTALL)
LONGEST = 160  # characters


def reason(error: BaseException) -> str:
    """Why ``error`` was raised, in at most 160 characters: without OpenCV's own file, line and function.

    It is read from the error's text.  OpenCV stores ``err`` and ``msg`` at the class, where any thread's last error
    overwrites them.  Errors that are not OpenCV's give their text, else their class's name.
    """
    text = str(error)
    match = _REASON.search(text)
    return " ".join((match["reason"] if match else text).split())[:LONGEST] or type(error).__name__
