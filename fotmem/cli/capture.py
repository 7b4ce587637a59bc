"""``fotmem capture``, ``capture-arrays`` and ``capture-random``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fotmem.cli.loading import load_quietly, read_texts
from fotmem.cli.options import Distance, Layers, Model, TextsOrReference, Window, seed_option
from fotmem.cli.parsing import parse_layers, parse_sizes

if TYPE_CHECKING:
    from fotmem.measure.capture import Capture

Output = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        help="A new folder, or the folder of the same capture to continue.",
    ),
]
Queries = Annotated[int, typer.Option(min=1, help="Queries of each head, for each size.")]


def capture(
    model: Model,
    out: Output,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tokens: Annotated[str, typer.Option(help="Number of tokens, such as 64k.")] = "64k",
    queries: Queries = 1024,
    layers: Layers = None,
    window: Window = 512,
    distance: Distance = None,
    seed: Annotated[int, seed_option("Seed of the choice of queries.")] = 0,
) -> None:
    """Capture keys, values and queries of memory layers while a model reads a text.

    Stores are measured with captures. Queries are those of the text that follows 1,024, 2,048,
    4,096 ... tokens, and all tokens. The same command continues a stopped capture.

    Example: fotmem capture smollm2 --text book.txt --tokens 64k --out DIR
    """
    [size] = parse_sizes(tokens, "--tokens", one=True)
    chosen, corpus = parse_layers(layers), read_texts(text)
    from fotmem.measure.capture import Capture

    Capture.check_place(out)
    llama, tokenizer = load_quietly(model)
    from fotmem.measure.capture import capture_model
    from fotmem.measure.reading import OVERLAP
    from fotmem.models.tokens import token_ids

    ids = token_ids(tokenizer, corpus)
    _show(
        capture_model(
            llama,
            ids,
            out,
            tokens=size,
            queries=queries,
            layers=chosen,
            window=window,
            overlap=min(OVERLAP, window // 2),
            distance=distance,
            seed=seed,
            progress=True,
        )
    )


def capture_arrays(
    out: Output,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys, a .npy file of shape H, N, D or N, D."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Queries, a .npy file of shape H, Q, D or Q, D."),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Values, a .npy file shaped as the keys; default: the keys."
        ),
    ] = None,
    hdf5: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A data set of ann-benchmarks instead of arrays."),
    ] = None,
) -> None:
    """Make a capture of existing arrays.

    Use it for keys and queries of a model that fotmem cannot attach to, or for the data sets with
    which index libraries publish their results.

    Example: fotmem capture-arrays --keys keys.npy --queries queries.npy --out DIR
    """
    from fotmem.measure.capture import capture_files, capture_hdf5

    if hdf5 is not None and not (keys or queries or values):
        _show(capture_hdf5(out, hdf5))
    elif hdf5 is None and keys and queries:
        _show(capture_files(out, keys, queries, values))
    else:
        raise typer.BadParameter("expected --keys and --queries, or --hdf5 alone")


def capture_random(
    out: Output,
    tokens: Annotated[str, typer.Option(help="Number of keys, such as 64k.")] = "64k",
    queries: Queries = 1024,
    heads: Annotated[int, typer.Option(min=1, help="Key/value heads.")] = 3,
    dim: Annotated[int, typer.Option(min=1, help="Head dimension.")] = 64,
    mismatch: Annotated[
        float,
        typer.Option(min=0, max=1, help="0: queries are distributed like keys; 1: unlike them."),
    ] = 0.0,
    seed: Annotated[int, seed_option("Seed of everything random.")] = 0,
) -> None:
    """Draw a random capture, whose queries are distributed like its keys or unlike them.

    Example: fotmem capture-random --tokens 64k --mismatch 0.5 --out DIR
    """
    [size] = parse_sizes(tokens, "--tokens", one=True)
    from fotmem.measure.capture import capture_random as drawn

    _show(
        drawn(
            out,
            tokens=size,
            queries=queries,
            num_heads=heads,
            head_dim=dim,
            mismatch=mismatch,
            seed=seed,
        )
    )


def _show(found: "Capture") -> None:
    info = found.info
    print(
        f"{found.directory}: {info.tokens:,} tokens of {len(info.layers)} layers, {info.num_heads} "
        f"heads of {info.head_dim} dimensions, {info.queries:,} queries after each of "
        f"{len(info.sizes)} sizes"
    )
