"""``fotmem demo``."""

from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from fotmem.cli.options import load_quietly

if TYPE_CHECKING:
    from fotmem.memory import Memory

MODEL = "smollm2"
TOKENS, WINDOW = 4096, 512
TOP_K = (16, 64)
FACTS = (
    ("Every Thursday the dragon Marmaduke sleeps under the old", "lighthouse"),
    ("Professor Ivanova's favourite animal is the", "hedgehog"),
    ("The secret recipe of grandmother Olga needs seven", "cinnamon sticks"),
    ("The train from Brno to Oslo has the number", "48213"),
)


class Hidden(NamedTuple):
    """A fact in the text: what is asked, what should come, and where that stands."""

    cue: list[int]
    truth: list[int]
    place: range


class Score(NamedTuple):
    """How a setting did."""

    right: int
    """Answer tokens that were the model's first choice."""
    found: int
    """Facts whose answer is the remembered token that was looked at most."""


def demo() -> None:
    """Let a small LLaMA read a text eight times its window, and ask for what stood far back.

    Example: fotmem demo
    """
    llama, tokenizer = load_quietly(MODEL)
    from fotmem.attachment import attach
    from fotmem.evaluation.passkey import LOCAL, OVERLAP

    console = Console(highlight=False)
    text, hidden = _text(tokenizer)
    console.print(
        f"[bold]SmolLM2-135M[/bold], not tuned, with a window of {WINDOW} tokens, reads "
        f"{len(text):,} tokens of Python's own reference. Four sentences are hidden in it:"
    )
    for (cue, truth), fact in zip(FACTS, hidden, strict=True):
        console.print(
            f"  token {fact.place.start:5,}: [italic]{cue} [bold]{truth}[/bold].[/italic]"
        )

    local = text[-LOCAL:]
    console.rule("without memory")
    scores = {"without memory": _ask_all(console, llama, tokenizer, local, hidden, None)}
    with attach(llama, top_k=TOP_K[0], window=WINDOW) as memory:
        console.rule(f"reading into the memory of layers {memory.layers[0]} to {memory.layers[-1]}")
        memory.read(text[:-LOCAL], overlap=OVERLAP, progress=True)
        for top_k in TOP_K:
            memory.top_k = top_k
            label = f"with memory, top-k {top_k}"
            console.rule(label)
            scores[label] = _ask_all(console, llama, tokenizer, local, hidden, memory)
    _conclude(console, scores, sum(len(fact.truth) for fact in hidden))


def _text(tokenizer: Any) -> tuple[list[int], list[Hidden]]:
    """Take prose that every Python has, and hide the facts in it at even distances."""
    from pydoc_data.topics import topics

    def tokens(words: str) -> list[int]:
        return list(tokenizer(words, add_special_tokens=False).input_ids)

    text = tokens("\n".join(topics.values()))[:TOKENS]
    hidden = []
    for index, (cue, truth) in enumerate(FACTS):
        asked, answer = tokens(f" {cue}"), tokens(f" {truth}")
        place = TOKENS * (2 * index + 1) // (2 * len(FACTS))
        text[place:place] = [*asked, *answer, *tokens(". ")]
        begin = place + len(asked)
        hidden.append(Hidden(asked, answer, range(begin, begin + len(answer))))
    return text, hidden


def _ask_all(
    console: Console,
    llama: Any,
    tokenizer: Any,
    local: list[int],
    hidden: list[Hidden],
    memory: "Memory | None",
) -> Score:
    """Let the model complete every fact; show the answers and where they came from."""
    from fotmem.answer import answer, first_choices, passage
    from fotmem.cli.ask import sources_table

    right = found = 0
    for fact in hidden:
        prompt, length = local + fact.cue, len(fact.truth)
        given = answer(llama, tokenizer, prompt, memory=memory, max_new_tokens=length, top=3)
        right += sum(first_choices(llama, prompt, fact.truth))
        found += any(source.position in fact.place for source in given.sources[:1])
        cue, truth = tokenizer.decode(fact.cue).strip(), tokenizer.decode(fact.truth).strip()
        said = escape(" ".join(given.text.split())) or "(nothing)"
        console.print(f"{cue} [bold]{said}[/bold]  [dim](the text says: {truth})[/dim]")
        if memory is not None:
            passages = [passage(tokenizer, memory, source.position) for source in given.sources]
            console.print(sources_table(given.sources, passages))
    return Score(right, found)


def _conclude(console: Console, scores: dict[str, Score], tokens: int) -> None:
    """Say what came out, and what an untuned model can and cannot do."""
    console.rule("what this shows")
    for label, score in scores.items():
        place = "" if label == "without memory" else f", {score.found} of {len(FACTS)} places found"
        console.print(f"  {label:<24} {score.right:2} of {tokens} answer tokens right{place}")
    console.print(
        "An answer token is right if it is the model's first choice, given those before it; a "
        "place is found if no remembered token got more attention than one of the answer.\n"
        "The sentences stand far outside the window. Some heads of this model find them in memory "
        "all the same, as the tables show. But it was never trained to use a memory: what these "
        "heads bring home often does not win over the rest, and the more is looked at, the more "
        "it is distracted. Training it with crossbatch is the cure that the paper proposes."
    )
