"""The one exception that a user is meant to read."""


class ByeError(Exception):
    """A problem with the user's input or machine, told in one sentence.

    The sentence names the file, sample id or config key and says what to do about it.
    The command line prints it as ``bye: error: ...`` without a traceback and exits with status 2.
    """


class SampleError(ByeError):
    """A problem with one sample, which its file goes on without. kind: of `bye.data.findings.KINDS`."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):  # so that it comes back whole from another process
        return SampleError, (self.kind, str(self))


def cut(text, length=300):
    """A text as an error shows it: of a long one the beginning, the end and how many characters it has."""
    text = str(text)
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}...{text[-length // 4 :]} ({len(text)} characters)"


def shortened(text, length=60):
    """A text as a line quotes it: of a long one the beginning."""
    return f"{text[:length]}..." if len(text) > length else text


def first(texts, number):
    """The first `number` of some texts, and as one text more how many are left."""
    return [*texts[:number], *([f"and {len(texts) - number} more"] if len(texts) > number else [])]


def together(*checks):
    """Return what each of some functions returns. Raises one ByeError with what is wrong in all of them."""
    found, problems = [], []
    for check in checks:
        try:
            found.append(check())
        except ByeError as error:
            problems.append(str(error))
    if problems:
        raise ByeError("\n  ".join(problems if len(problems) == 1 else [f"{len(problems)} problems:", *problems]))
    return found


def counted(number, thing):
    """A number of things as a sentence has it: "1 sample", "9 samples"."""
    return f"{number} {thing}{'s' * (number != 1)}"
