"""Operating-system errors become one message that names the file and the next step."""

import errno
import os

import pytest

from fer_lib.errors import DataError, reported_message, user_message


def raised(call) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_os_error_names_its_file_and_the_next_step(tmp_path):
    missing, file = tmp_path / "no such.csv", tmp_path / "file"
    file.touch()
    for call, path, step in (
        (missing.read_text, missing, "check the path and its permissions"),
        ((file / "below").mkdir, file / "below", "a file stands where a folder should be"),
        (lambda: os.mkdir(file), file, "a file stands where a folder should be"),
    ):
        message = user_message(raised(call))
        assert str(path) in message and step in message and "Errno" not in message


READING = {
    errno.EACCES: "check the path and its permissions",
    errno.EROFS: "read-only",
    errno.ENOSPC: "free some space",
}


@pytest.mark.parametrize("number", READING)
def test_a_forbidden_file_gets_no_advice_about_output_folders(number):
    message = user_message(OSError(number, os.strerror(number), "votes.csv"))
    assert READING[number] in message and "votes.csv" in message
    assert ("output folder" in message) == (number != errno.EACCES)


def test_a_kernel_error_has_the_same_message(tmp_path):
    for name in ("no such.csv", "it's", 'a "quoted" name'):
        error = raised((tmp_path / name).read_text)
        assert reported_message(type(error).__name__, str(error)) == user_message(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_found_in_the_chain_of_causes(number):
    def write():
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise ValueError("the writer failed") from error

    assert "the disk is full" in user_message(raised(write))


def test_defects_keep_their_traceback():
    assert user_message(ValueError("a defect")) is None
    assert user_message(OSError(errno.EINVAL, "no file is named")) is None
    assert reported_message("ValueError", "[Errno 2] not an OSError: 'x'") == "[Errno 2] not an OSError: 'x'"
    assert user_message(DataError("row 3 is wrong")) == "row 3 is wrong"


def test_a_path_that_is_not_utf8_is_escaped():
    error = FileNotFoundError(errno.ENOENT, "No such file", b"caf\xe9.png")
    assert r"caf\xe9.png" in user_message(error)
