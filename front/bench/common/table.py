"""Aligned tables."""


def show(title, rows, left, missing=()):
    """The first row is the heading; the first `left` columns are words, the others numbers. What is missing is named."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(title)
    for row in rows:
        line(row, widths, left)
    if missing:
        print(f"left out: {', '.join(missing)}")


def line(cells, widths, left):
    cells = [cell.ljust(width) if n < left else cell.rjust(width) for n, (cell, width) in enumerate(zip(cells, widths))]
    # Somebody may be waiting for it.
    print("  ".join(cells).rstrip(), flush=True)
