"""The evaluations that ``make report-smollm2`` asks of each text: a further one is a line here.

Its figures get a line in ``recipes/text_tables.py``. Thirteen questions of each of eight texts are
more than a hundred for the mean; a single text has a wide interval.
"""

from typing import NamedTuple

from fotmem.cli.parsing import parse_sizes
from fotmem.measure.evaluate.ruler.tasks import NEEDLES
from fotmem.training.tune import DISTANCE
from recipes.smollm2 import OPTIONS

BASE, TUNED = (f"{name} --dtype bfloat16" for name in ("smollm2", "smollm2-fot"))
ALIKE = f"{BASE} --distance {DISTANCE} --decay {OPTIONS.decay} --temperature {OPTIONS.temperature}"
READ, ASKED = 700, 2
"""Tokens read in a second, and seconds of a question: in bfloat16 on one core where we measured."""
QUICK = 5
"""Questions at most, in a quick report."""


class Evaluation(NamedTuple):
    """A command of `fotmem eval`, run for each text and each length."""

    command: str
    """Without `--tokens` and `--text`; has places for `readings` and `asked`."""
    lengths: tuple[str, ...]
    """Values of `--tokens`, each for a report of its own."""
    quick: tuple[str, ...]
    """Lengths of a quick report."""
    readings: int = 1
    """Pieces of text that are read for a report."""
    asked: int = 13
    """Questions of a report."""
    passes: int = 1
    """How often a piece is read, with one window after another."""
    scored: int | None = None
    """Tokens to score after each piece, where pieces do not overlap."""
    questions: str = ""
    """File of questions that a text must have, with a place for its name."""

    def words(self, length: str, text: str) -> str:
        """Return the command for a length; `text` is the name of a text."""
        command = self.command.format(readings=self.readings, asked=self.asked)
        questions = f" --questions {self.questions.format(text)}" if self.questions else ""
        return f"{command}{questions} --tokens {length}"

    def needed(self, length: str) -> int:
        """Return how many tokens a text must have."""
        longest = max(parse_sizes(length, "--tokens"))
        return longest if self.scored is None else self.readings * (longest + self.scored)

    def seconds(self, length: str) -> float:
        """Estimate how long a report takes."""
        tokens = sum(parse_sizes(length, "--tokens"))
        return self.readings * self.passes * tokens / READ + self.asked * ASKED

    def quickened(self) -> "Evaluation":
        """Return the same with less of everything."""
        return self._replace(lengths=self.quick, readings=1, asked=min(self.asked, QUICK))


PASSKEY = "passkey {} --readings {{readings}} --trials {{asked}}".format
FACTS = f"facts {TUNED} --facts {{asked}}"
RULER = f"ruler {TUNED} --readings {{readings}} --trials {{asked}}"
ONLY_NEEDLES = f"{RULER} --tasks {','.join(NEEDLES)}"


def questions(options: str, quick: tuple[str, ...] = ()) -> Evaluation:
    """Ask natural questions, whose answers were checked by hand."""
    return Evaluation(
        f"questions {options}",
        lengths=("16k",),
        quick=quick,
        readings=10,
        asked=20,
        questions="recipes/questions/test/{}.jsonl",
    )


EVALUATIONS = {
    "passkey": Evaluation(PASSKEY(TUNED), ("4k", "16k", "64k", "100k"), ("4k", "16k")),
    "passkey-long": Evaluation(PASSKEY(TUNED), ("256k", "1M"), ()),
    "passkey-attention": Evaluation(f"{PASSKEY(TUNED)} --passages 0", ("16k", "100k"), ()),
    "passkey-base": Evaluation(PASSKEY(BASE), ("4k", "16k"), ("4k",)),
    "passkey-ivf": Evaluation(
        f"{PASSKEY(TUNED)} --store faiss-ivf --option nprobe=128", ("100k",), ()
    ),
    "passkey-2048": Evaluation(f"{PASSKEY(TUNED)} --window 2048", ("16k", "100k"), ()),
    "passkey-8192": Evaluation(f"{PASSKEY(TUNED)} --window 8192", ("16k", "100k"), ()),
    "distractors": Evaluation(f"{PASSKEY(TUNED)} --distractors 10", ("16k", "100k"), ("16k",)),
    "facts": Evaluation(FACTS, ("16k", "100k"), ("16k",), asked=64),
    "facts-attention": Evaluation(f"{FACTS} --passages 0", ("16k",), (), asked=32),
    "facts-2048": Evaluation(f"{FACTS} --window 2048", ("16k",), (), asked=32),
    "facts-8192": Evaluation(f"{FACTS} --window 8192", ("16k",), (), asked=32),
    "questions": questions(f"{TUNED} --beside window,context,bm25", quick=("16k",)),
    "questions-attention": questions(f"{TUNED} --passages 0"),
    "questions-base": questions(BASE),
    "ruler": Evaluation(RULER, ("16k",), (), asked=5, passes=13),
    "ruler-long": Evaluation(ONLY_NEEDLES, ("100k",), (), asked=3, passes=len(NEEDLES)),
    "ruler-2048": Evaluation(
        f"{ONLY_NEEDLES} --window 2048", ("16k",), (), asked=3, passes=len(NEEDLES)
    ),
    "ruler-8192": Evaluation(
        f"{ONLY_NEEDLES} --window 8192", ("16k",), (), asked=3, passes=len(NEEDLES)
    ),
    "beside": Evaluation(
        f"passkey {TUNED} --trials {{asked}} --beside window,context,bm25,sinks",
        lengths=("16k",),
        quick=(),
        readings=13,
        asked=13,
    ),
    "perplexity": Evaluation(
        f"perplexity {TUNED} --window 512,2k,8k --scored 8k --places {{readings}}",
        lengths=("2k,4k,16k,64k",),
        quick=("4k,16k",),
        readings=2,
        asked=0,
        passes=3,
        scored=8192,
    ),
}
"""By the names of their reports."""
