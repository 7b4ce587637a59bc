"""``fotmem demo``."""

from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from fotmem.cli.demo_memory import demo_memory
from fotmem.cli.loading import load_quietly
from fotmem.cli.options import Store
from fotmem.cli.printable import printable
from fotmem.plugin.create import find_store

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory

MODEL = "smollm2-fot"
TOKENS, WINDOW = 16_384, 512
TOP_K = (16, None)
FACTS = (
    (
        "The favourite animal of Professor Ivanova is the {}.",
        "What is the favourite animal of Professor Ivanova? It is the",
        "hedgehog",
    ),
    (
        "The train from Brno to Oslo has the number {}.",
        "Which number has the train from Brno to Oslo? It has the number",
        "48213",
    ),
    (
        "Every Thursday the dragon Marmaduke sleeps under the old {}.",
        "Where does the dragon Marmaduke sleep every Thursday? Under the old",
        "lighthouse",
    ),
    (
        "The gate code of the northern castle is {}.",
        "What is the gate code of the northern castle? The gate code of the northern castle is",
        "7305",
    ),
)


class HiddenFact(NamedTuple):
    """A fact in the text: the question, the true answer, and the place of the answer."""

    question: list[int]
    truth: list[int]
    place: range


def demo(store: Store = "exact") -> None:
    """Let a small tuned model read a text 32 times its window, and ask for facts in it.

    The memory is kept: the next demo opens it instead of reading again.

    Example: fotmem demo --store exact
    """
    find_store(store)
    llama, tokenizer = load_quietly(MODEL)
    from fotmem.measure.reading import LOCAL, OVERLAP

    console = Console(highlight=False)
    text, hidden = _text(tokenizer)
    console.print(
        f"[bold]SmolLM2-135M[/bold], tuned by crossbatch, with a window of {WINDOW} tokens, reads "
        f"{len(text):,} tokens of Python's own reference. Four sentences are hidden in it:"
    )
    for (statement, _, truth), fact in zip(FACTS, hidden, strict=True):
        said = statement.format(f"[bold]{truth}[/bold]")
        console.print(f"  token {fact.place.start:6,}: [italic]{said}[/italic]")

    local, right = text[-LOCAL:], {}
    console.rule("without memory")
    right["without memory"] = _ask_all(console, llama, tokenizer, local, hidden, None)
    console.rule("reading into memory")
    how = {"top_k": TOP_K[0], "window": WINDOW, "overlap": OVERLAP}
    opened, said = demo_memory(llama, store, text[:-LOCAL], **how)
    with opened as memory:
        layers = ", ".join(map(str, memory.layers))
        console.print(f"{len(memory):,} tokens in the memory of layers {layers}: {escape(said)}")
        for top_k in TOP_K:
            memory.top_k = top_k
            label = f"with memory, {f'top-k {top_k}' if top_k else 'all of it'}"
            console.rule(label)
            right[label] = _ask_all(console, llama, tokenizer, local, hidden, memory)
    console.rule("result")
    for label, count in right.items():
        console.print(f"  {label:<24} {count} of {len(FACTS)} answers correct")
    console.print(
        "The sentences are far outside the window: without memory the model can only guess. "
        "A short crossbatch training taught its retrieval heads to find them in memory and to "
        "ignore the rest. The untuned model (smollm2) attends to the right places too, but the "
        "rest distracts it: it seldom gives an entire answer, and even more seldom if it attends "
        "to more keys. The tuned model is still small: it finds facts whose wording is like that "
        "of the question, and it cannot reason about them."
    )


def _text(tokenizer: Any) -> tuple[list[int], list[HiddenFact]]:
    """Take prose that every Python has, and hide the facts in it at even distances."""
    from fotmem.files import python_reference
    from fotmem.models.tokens import token_ids

    def tokens(words: str) -> list[int]:
        return token_ids(tokenizer, words)

    text = tokens(python_reference())[:TOKENS]
    hidden = []
    for index, (statement, question, truth) in enumerate(FACTS):
        before, _, after = statement.partition(" {}")
        told, answer = tokens(f" {before}"), tokens(f" {truth}")
        place = TOKENS * (2 * index + 1) // (2 * len(FACTS))
        text[place:place] = [*told, *answer, *tokens(f"{after} ")]
        begin = place + len(told)
        hidden.append(HiddenFact(tokens(f" {question}"), answer, range(begin, begin + len(answer))))
    return text, hidden


def _ask_all(
    console: Console,
    llama: Any,
    tokenizer: Any,
    local: list[int],
    hidden: list[HiddenFact],
    memory: "Memory | None",
) -> int:
    """Ask for every fact; show the answers and their sources; count the correct ones."""
    from fotmem.cli.ask import sources_table
    from fotmem.tasks.answer import answer_question
    from fotmem.tasks.passages import passages

    right = 0
    for (_, question, truth), fact in zip(FACTS, hidden, strict=True):
        length = len(fact.truth)
        prompt = local + fact.question
        given = answer_question(
            llama, tokenizer, prompt, memory=memory, max_new_tokens=length, top=3
        )
        right += given.text == truth
        said = escape(printable(" ".join(given.text.split()))) or "(nothing)"
        mark = "[green]correct[/green]" if given.text == truth else f"[red]expected[/red] {truth}"
        console.print(f"{question} [bold]{said}[/bold]  ({mark})")
        if memory is not None:
            console.print(sources_table(passages(memory, tokenizer, given.sources)))
    return right
