"""The report's confusion matrix: a table whose cells tell their videos, and the commonest confusions as a list."""

from collections.abc import Sequence

import numpy as np

from reporting.report_content import Report, breakable, escape

LISTED = 20  # confusions in the list
LARGEST_ORDERED = 400  # classes; the best order of more takes long to find


def cluster_order(matrix: np.ndarray) -> list[int]:
    """The classes in an order in which those that are confused stand together.

    Args:
        matrix: counts (num_classes, num_classes), rows true, columns predicted.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # not needed before the end of a run
    from scipy.spatial.distance import squareform

    count = len(matrix)
    if count < 3:
        return list(range(count))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    confusion = shares + shares.T
    distance = 1 - confusion / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=count <= LARGEST_ORDERED)
    return leaves_list(tree).tolist()


def confusion_section(report: Report) -> str:
    """Which classes are taken for which, and which videos those are."""
    evaluation = report.evaluation
    matrix = evaluation.confusion.numpy()
    shown = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    order = shown[cluster_order(matrix[np.ix_(shown, shown)])]
    left_out = len(matrix) - len(shown)
    names = [escape(name) for name in evaluation.classes]
    cell = 34 if len(order) <= 16 else 24 if len(order) <= 40 else 12
    note = f" {left_out} classes without videos are left out." if left_out else ""
    return f"""<p>Rows are the true classes, columns the predicted ones; classes that are confused stand next to each
other. <span class="truth">Blue</span> is right, <span class="error">orange</span> is wrong, darker is a larger share of
the row. Choose a cell to see its videos; the arrow keys go from cell to cell.{note}</p>
<div class="filter"><label for="zoom">Size of a cell</label>
<input type="range" id="zoom" min="12" max="44" value="{cell}"><span id="matrix-hint" role="status"
class="quiet"></span></div>
<div class="matrix" id="matrix" role="region" aria-label="Confusion matrix" tabindex="0" style="--cell:{cell}px">
{_matrix_table(matrix, order, names)}</div>
<div class="panel" id="cell-videos" tabindex="-1" aria-live="polite" hidden></div>
{_commonest(matrix, evaluation.classes)}"""


def _matrix_table(matrix: np.ndarray, order: np.ndarray, names: list[str]) -> str:
    heads = "".join(f'<th scope="col" title="{names[i]}"><span>{names[i]}</span></th>' for i in order)
    totals = np.maximum(matrix.sum(1), 1)
    rows, tab_index = [], 0
    for truth in order:
        cells = []
        for prediction in order:
            count = matrix[truth, prediction]
            if not count:
                cells.append("<td></td>")
                continue
            share = count / totals[truth]
            kind = f"{'right' if truth == prediction else 'wrong'}{' dark' if share > 0.55 else ''}"
            cells.append(
                f'<td><button type="button" class="{kind}" style="--share:{share:.2f}" data-truth="{truth}" '
                f'data-prediction="{prediction}" tabindex="{tab_index}" '
                f'aria-label="{names[truth]}, predicted {names[prediction]}: {count}">{count}</button></td>'
            )
            tab_index = -1
        label = f'<th scope="row" title="{names[truth]}"><span>{names[truth]}</span></th>'
        rows.append(f"<tr>{label}{''.join(cells)}</tr>")
    corner = '<th scope="col">true ↓ predicted →</th>'
    return f"<table><thead><tr>{corner}{heads}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _commonest(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """The largest cells off the diagonal, as text."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(cell), len(matrix)) for cell in order if mistakes.flat[cell]]
    if not pairs:
        return "<h3>Commonest confusions</h3><p>No video was taken for another class.</p>"
    totals = matrix.sum(1)
    rows = "".join(
        f"<tr><td>{breakable(classes[truth])}</td><td>{breakable(classes[prediction])}</td>"
        f'<td class="number">{mistakes[truth, prediction]} '
        f'of {totals[truth]}</td><td><button type="button" class="link" data-confusion="{truth} {prediction}" '
        f'aria-label="Videos of {escape(classes[truth])} taken for {escape(classes[prediction])}">'
        "videos</button></td></tr>"
        for truth, prediction in pairs
    )
    return (
        '<h3>Commonest confusions</h3><div class="scroll"><table><thead><tr><th scope="col">True</th>'
        '<th scope="col">Predicted</th><th scope="col" class="number">Videos</th><th scope="col"></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
