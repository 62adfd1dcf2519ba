"""The one exception that a user is meant to read."""


class ByeError(Exception):
    """A problem with the user's input or machine, told in one sentence.

    The sentence names the file, sample id or config key and says what to do about it.
    The command line prints it as ``bye: error: ...`` without a traceback and exits with status 2.
    """


def counted(number, thing):
    """A number of things as a sentence has it: "1 sample", "9 samples"."""
    return f"{number} {thing}{'s' * (number != 1)}"
