"""Tables about a model: what it is made of, how it was rotated."""

from typing import TYPE_CHECKING

from gossamer.cli.show.tables import megabytes, output_console, print_rows, table_of

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.checkpoint.summary import Summary
    from gossamer.rotation.result import Rotated


def print_summary(summary: "Summary") -> None:
    table = table_of(
        f"{summary.model_class} ({summary.model_type}), {summary.num_blocks} blocks, "
        f"{summary.num_parameters:,} parameters, {megabytes(summary.size_bytes)} on disk, "
        f"{summary.bits_per_parameter:.2f} bits per parameter, sparsity of blocks {summary.sparsity:.1%}",
        "matrix",
        "shape",
        "format",
        "sparsity",
        "bytes",
    )
    for matrix in summary.matrices:
        rows, columns = matrix.shape
        table.add_row(
            matrix.name,
            f"{rows} x {columns}",
            matrix.format,
            f"{matrix.sparsity:.1%}",
            f"{matrix.size_bytes:,}",
        )
    for other in summary.others:
        held = f"{other.expert_matrices} matrices of experts" if other.expert_matrices else "no linear"
        table.add_row(
            other.name,
            " x ".join(map(str, other.shape)),
            held,
            f"{other.sparsity:.1%}",
            "stays dense",
        )
    console = output_console()
    console.print(table)
    for note in summary.untouched.notes:
        console.print(note, style="bold", soft_wrap=True)


def print_rotated(result: "Rotated") -> None:
    rows = [("size of the weights", f"{megabytes(result.weights_bytes)}, {result.dtype}")]
    if result.untied_bytes:
        rows.append(("of which the head, untied", megabytes(result.untied_bytes)))
    for part, matrix in (("values", result.values), ("residual", result.residual)):
        if matrix is not None:
            rows.append((f"{part} rotated by", f"{matrix.matrix} matrix of order {matrix.size}"))
    print_rows(f"wrote {result.folder}", rows)
