"""The evaluations that ``make report-smollm2`` asks of each text: a further one is a line here.

Its figures get a line in ``recipes/text_tables.py``. Fifty questions of each of eight texts are 400
for the mean, which tells 0.95 from 0.9; those for details, thirteen, are a hundred. A single text
has a wide interval. Each text has a seed of its own: other numbers, facts and places.
"""

import json
from typing import NamedTuple
from zlib import crc32

from fotmem.cli.parsing import parse_sizes
from fotmem.measure.evaluate.ruler.tasks import NEEDLES, TASKS
from recipes.smollm2 import SHIPPED

BASE, TUNED = (f"{name} --dtype bfloat16" for name in ("smollm2", "smollm2-fot"))
MEMORY = json.loads((SHIPPED / "memory.json").read_text("utf-8"))
ALIKE = (
    f"{BASE} --layers {','.join(map(str, MEMORY['mem_layers']))} "
    f"--distance {MEMORY['mem_distance']} "
    f"--decay {MEMORY['mem_decay']} --temperature {MEMORY['mem_temperature']}"
)
"""The untuned model, with a memory like that of the tuned one, but for recent tokens."""
UNTUNED = f"{ALIKE} --recent {MEMORY['mem_recent']}"
READ = 700
"""Tokens read in a second, in bfloat16 on one core where we measured."""
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
    asking: float = 3
    """Seconds that a question takes, all its answers together, on the same core."""
    passes: int = 1
    """How often a piece is read, with one window after another."""
    scored: int | None = None
    """Tokens to score after each piece, where pieces do not overlap."""
    questions: str = ""
    """File of questions that a text must have, with a place for its name."""
    drawn: bool = True
    """Whether questions or places are drawn at random."""

    def words(self, length: str, text: str, seed: str) -> str:
        """Return the command for a length; `text` is the name of a text, `seed` its seed."""
        command = self.command.format(readings=self.readings, asked=self.asked)
        questions = f" --questions {self.questions.format(text)}" if self.questions else ""
        drawn = f" --seed {seed}" if self.drawn else ""
        return f"{command}{questions}{drawn} --tokens {length}"

    def needed(self, length: str) -> int:
        """Return how many tokens a text must have."""
        longest = max(parse_sizes(length, "--tokens"))
        return longest if self.scored is None else self.readings * (longest + self.scored)

    def seconds(self, length: str) -> float:
        """Estimate how long a report takes."""
        tokens = sum(parse_sizes(length, "--tokens"))
        return self.readings * self.passes * tokens / READ + self.asked * self.asking

    def quickened(self) -> "Evaluation":
        """Return the same with less of everything."""
        return self._replace(lengths=self.quick, readings=1, asked=min(self.asked, QUICK))


def seed_of(text: str) -> str:
    """Return the seed of a text, by its name."""
    return str(crc32(text.encode()) % 1000)


PASSKEY = "passkey {} --readings {{readings}} --trials {{asked}}".format
FACTS = f"facts {TUNED} --facts {{asked}}"
INSTEAD = " --beside bm25"
"""What a user would do instead, with the same model; attention to a whole context of 8,192 tokens,
half a minute for each text, is measured where questions share one."""
OTHERS = [task for task in TASKS if task not in NEEDLES]
RULER = f"ruler {TUNED} --readings {{readings}} --trials {{asked}}"


def questions(options: str, quick: tuple[str, ...] = (), *, passes: int = 1) -> Evaluation:
    """Ask natural questions, whose answers were checked by hand; few share a piece of text."""
    return Evaluation(
        f"questions {options}",
        lengths=("16k",),
        quick=quick,
        readings=15,
        asked=20,
        passes=passes,
        questions="recipes/questions/test/{}.jsonl",
    )


def needles(options: str, *lengths: str) -> Evaluation:
    """Ask for the needles of RULER, four of each task; answers are long, and each has two ways."""
    passes, command = len(NEEDLES), f"{RULER} --tasks {','.join(NEEDLES)}{options}"
    return Evaluation(command, lengths, (), asked=4, asking=20 * passes, passes=passes)


def perplexity(model: str, *, quick: bool = False) -> Evaluation:
    """Score the same text with windows that people use, with memory and without."""
    return Evaluation(
        f"perplexity {model} --window 512,1k,2k --scored 2k --places {{readings}}",
        lengths=("4k",),
        quick=("4k",) if quick else (),
        readings=4,
        asked=0,
        passes=20,
        scored=2048,
        drawn=False,
    )


EVALUATIONS = {
    "passkey": Evaluation(
        PASSKEY(TUNED), ("4k", "16k", "64k", "100k"), ("4k", "16k"), readings=2, asked=50
    ),
    "passkey-long": Evaluation(PASSKEY(TUNED), ("256k", "1M"), (), asked=26),
    "passkey-attention": Evaluation(f"{PASSKEY(TUNED)} --passages 0", ("16k", "100k"), ()),
    "passkey-base": Evaluation(PASSKEY(UNTUNED), ("4k", "16k"), ("4k",)),
    "passkey-ivf": Evaluation(
        f"{PASSKEY(TUNED)} --store faiss-ivf --option nlist=256 --option nprobe=64",
        ("100k", "256k"),
        (),
    ),
    "passkey-2048": Evaluation(f"{PASSKEY(TUNED)} --window 2048{INSTEAD}", ("16k", "100k"), ()),
    "passkey-8192": Evaluation(f"{PASSKEY(TUNED)} --window 8192", ("16k", "100k"), ()),
    "distractors": Evaluation(
        f"{PASSKEY(TUNED)} --distractors 10{INSTEAD}",
        ("16k", "100k"),
        ("16k",),
        readings=2,
        asked=50,
    ),
    "facts": Evaluation(f"{FACTS}{INSTEAD},context", ("16k", "100k"), ("16k",), asked=128),
    "facts-attention": Evaluation(f"{FACTS} --passages 0", ("16k",), (), asked=64),
    "facts-2048": Evaluation(f"{FACTS} --window 2048{INSTEAD}", ("16k", "100k"), (), asked=64),
    "facts-8192": Evaluation(f"{FACTS} --window 8192", ("16k", "100k"), (), asked=64),
    "questions": questions(f"{TUNED} --beside window,context,bm25", ("16k",), passes=4),
    "questions-attention": questions(f"{TUNED} --passages 0"),
    "questions-base": questions(UNTUNED),
    "ruler": needles(INSTEAD, "4k", "16k", "100k"),
    "ruler-2048": needles(" --window 2048", "16k", "100k"),
    "ruler-8192": needles(" --window 8192", "16k", "100k"),
    "ruler-others": Evaluation(  # questions of common words take more than a window of 512
        f"{RULER} --tasks {','.join(OTHERS)} --window 1024", ("16k",), (), passes=4
    ),
    "beside": Evaluation(
        f"{PASSKEY(TUNED)} --beside window,context,bm25,sinks", ("16k",), (), readings=3, passes=4
    ),
    "perplexity": perplexity(TUNED, quick=True),
    "perplexity-base": perplexity(UNTUNED),
    "perplexity-steps": Evaluation(
        f"perplexity {TUNED} --window 512 --scored 1k --places {{readings}}",
        ("2k,4k,16k,64k",),
        ("2k,4k,16k",),
        readings=3,
        asked=0,
        scored=1024,
        drawn=False,
    ),
}
"""By the names of their reports."""
