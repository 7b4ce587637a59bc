"""``fotmem eval passkey``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fotmem.arguments import PASSAGES
from fotmem.cli.evaluate.answers import ask_with_memory
from fotmem.cli.evaluate.beside import ask_beside, check_room, parse_beside, show_beside
from fotmem.cli.evaluate.compare import advance, show
from fotmem.cli.evaluate.task import EXACT_MATCH, Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Attend,
    Beside,
    Config,
    Decay,
    Distance,
    Dtype,
    Grid,
    Json,
    Layers,
    Model,
    Passages,
    Recent,
    Report,
    StoreOption,
    StoreOrConfig,
    StoresOfAnswers,
    Temperature,
    TextsOrReference,
    TopK,
    Window,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes
from fotmem.progress import tracked

if TYPE_CHECKING:
    from fotmem.measure.evaluate.alternatives.run import WayRow
    from fotmem.measure.evaluate.passkey import PasskeyRow
    from fotmem.memory.memory import Memory

DISTRACTED = "distracted"
EXPLAINED = {
    "digits": "share of digits that are the likeliest, given the true digits before them",
    EXACT_MATCH: "share of trials with an entirely correct number, with its 95% interval",
    DISTRACTED: "share of trials in which the answer is the number of a distractor",
    "seconds": "time of all trials, with reading",
    "latency": "median time of decoding a token",
}


def passkey(
    context: typer.Context,
    model: Model,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tokens: Annotated[
        str, typer.Option(help="Lengths of the text, such as 4096 or 4k,16k.")
    ] = "4096",
    trials: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of trials, each with a hidden number.")
    ] = 20,
    readings: Annotated[
        int | None,
        typer.Option(min=1, help="Pieces of text that trials share; default: one for each trial."),
    ] = None,
    distractors: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="Statements about other numbers, which look like the right one."
        ),
    ] = 0,
    window: Window = 512,
    distance: Distance = None,
    recent: Recent = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "32",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
    stores: StoresOfAnswers = None,
    grid: Grid = None,
    passages: Passages = PASSAGES,
    attend: Attend = False,
    beside: Beside = None,
    seed: Annotated[int, seed_option("Seed of depths, numbers and pieces of text.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Hide a five-digit number at random depths of a text and ask for it, with and without memory.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """
    sizes = parse_sizes(tokens, "--tokens")
    ways = parse_beside(beside, stores)
    task = Task(context)
    task.check_sizes(sizes)
    from fotmem.measure.evaluate.alternatives.asked_texts import of_passkeys
    from fotmem.measure.evaluate.passkey import PasskeyRow, compare, measure_passkey
    from fotmem.measure.evaluate.passkey_trials import make_trials

    made = {
        size: make_trials(
            task.tokenizer,
            task.text,
            tokens=size,
            trials=trials,
            seed=seed,
            window=window,
            readings=readings,
            longest=max(sizes),
            distractors=distractors,
        )
        for size in sizes
    }

    how: dict[str, Any] = {name: task.options[name] for name in ("passages", "attend")}
    asked = {size: of_passkeys(task.tokenizer, made[size]) for size in sizes} if ways else {}
    for texts in asked.values():
        check_room(task, ways, texts)

    def measure(label: str, size: int, memory: "Memory | None") -> "PasskeyRow":
        name = None if memory is None else task.store
        steps = measure_passkey(task.model, task.tokenizer, made[size], memory, name, **how)
        row: PasskeyRow = [*tracked(f"{size:,} tokens, {label}", steps, trials)][-1]
        return row

    if task.settings:
        kept = task.kept(PasskeyRow)
        for size in sizes:
            if not kept.has(size, None, {}):
                kept.add(measure("without memory", size, None))
        with task.attach() as attached:
            for size in sizes:
                missing = kept.missing(size, task.settings)
                steps = compare(
                    task.model, task.tokenizer, made[size], attached, missing, kept, **how
                )
                advance(f"{size:,} tokens", steps, trials * len(missing))
        show(kept, EXACT_MATCH, EXPLAINED[EXACT_MATCH], _exact_match, as_json=as_json)
        return
    found = []
    with task.attach() as attached:
        for size in sizes:
            found.append(measure("with memory   ", size, attached))
            task.keep(found)
    rows = []
    for size, with_memory in zip(sizes, found, strict=True):
        rows += [measure("without memory", size, None), with_memory]
    others: list[WayRow] = []
    for size, texts in asked.items():
        again = ask_with_memory(task, f"{size:,} tokens, pass key, ", texts)
        others += ask_beside(task, ways, texts, again, about="pass key", tokens=size)
        task.keep(rows, beside=others)
    if not task.write(rows, beside=others):
        _show(rows, distractors)
        show_beside(others)


def _show(rows: "list[PasskeyRow]", distractors: int) -> None:
    last = DISTRACTED if distractors else "latency"
    heads = ["tokens", "memory", "digits", EXACT_MATCH, "trials", "seconds", last]
    table = Table(*heads)
    for row in rows:
        step = row.seconds_per_token
        latency = "" if step is None else f"{1000 * step:.0f} ms"
        table.add_row(
            f"{row.tokens:,}",
            row.store or "none",
            f"{row.digit_accuracy:.2f}",
            _exact_match(row),
            str(row.trials),
            f"{row.seconds:.0f}",
            f"{row.distracted:.2f}" if distractors else latency,
        )
    console = Console()
    console.print(table)
    explain(console, {name: EXPLAINED[name] for name in heads if name in EXPLAINED})


def _exact_match(row: "PasskeyRow") -> str:
    return f"{row.exact_match:.2f} ({interval(row.exact_match_interval)})"
