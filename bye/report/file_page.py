"""report.html of a cleaned file: the verdict, what was proven, and the samples to look at, on one page."""

from bye.report.html import command, evidence, page, verdict


def file_page(name, lines, found, made_by, histograms):
    """Return the page as HTML.

    name: of the file; lines: the verdict, (mark, text) pairs; found: content of the cell's evidence.json; made_by: the
    command that makes it again; histograms: (title, histogram or None) pairs, of its detector and of others.
    """
    body = [verdict(lines), command(made_by), evidence(found, "file", histograms)]
    return page(f"What is in {name}", "".join(body))
