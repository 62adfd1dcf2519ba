"""A table as CSV, and the same as Markdown and LaTeX beside it."""

from pathlib import Path

from bye.files import write_csv, write_text

MARKDOWN_MARKS = {1: "**{}**", 2: "<u>{}</u>", None: "{}"}
LATEX_MARKS = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
LATEX_ESCAPES = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "|": r"$|$"}


def write_table(out, rows, columns, caption, ranks=None):
    """Write rows (dicts of texts, None for an empty field) to `out` and its twins .md and .tex.

    ranks: {(index of a row, column): 1 or 2}, the best and second-best numbers, which the twins mark.
    """
    rows = [{name: row.get(name) for name in columns} for row in rows]
    cells = [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
    numeric = [all(_is_number(row[index]) for row in cells) for index in range(len(columns))]
    places = [[(ranks or {}).get((number, name)) for name in columns] for number in range(len(rows))]
    write_text(Path(out).with_suffix(".md"), _markdown(columns, cells, numeric, places))
    write_text(Path(out).with_suffix(".tex"), _latex(columns, cells, numeric, places, caption))
    write_csv(out, rows, columns)


def _is_number(text):
    return text == "" or text.replace(".", "", 1).isdigit()


def _markdown(columns, cells, numeric, places):
    escaped = [
        [MARKDOWN_MARKS[place].format(text.replace("|", "\\|")) for text, place in zip(row, row_places, strict=True)]
        for row, row_places in zip(cells, places, strict=True)
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric], *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(columns, cells, numeric, places, caption):
    lines = []
    for line, row_places in zip([columns, *cells], [[None] * len(columns), *places], strict=True):
        fields = ["".join(LATEX_ESCAPES.get(character, character) for character in text) for text in line]
        marked = [LATEX_MARKS[place] % text for text, place in zip(fields, row_places, strict=True)]
        lines.append(" & ".join(marked) + r" \\")
    alignment = "".join("r" if right else "l" for right in numeric)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
