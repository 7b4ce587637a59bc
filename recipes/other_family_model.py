"""Makes a tiny Qwen2 from scratch that answers questions about what stands in its context.

To find again what it read, it repeats random tokens first; then it answers questions about facts
close together, and then about facts far apart in text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fotmem.files import read_text
from fotmem.models.tokens import token_ids
from fotmem.progress import progress_told
from fotmem.tasks.facts import QUESTIONS, STATEMENTS, Facts

SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}
"""Of the model. With the usual range of first weights, 0.02, attention starts almost uniform."""
END = "<end>"
READ = 300_000
"""Characters of a text that are trained on, at most."""
LEARNING_RATE, WARMUP = 1e-3, 100
FALLING = 0.3
"""Share of the training, at its end, in which the learning rate falls to 0."""
KEPT = 100
"""Steps after which the state of the training is saved."""


class Stage(NamedTuple):
    """A stage of the training."""

    length: int
    """Tokens of a document."""
    documents: int
    """Documents per step."""
    steps: int
    tokens_per_fact: tuple[int, ...] = ()
    """Tokens of a document for each fact in it, one of these for each document; empty: a document
    is random tokens, then the same once more."""


STAGES = (
    Stage(64, 64, 300),
    Stage(128, 32, 700, (32,)),
    Stage(256, 16, 500, (32, 64)),
    Stage(1024, 4, 500, (32, 64, 128)),
)
"""Some 40 minutes of one core. After 200 steps all repeated tokens are right, if no token occurs
twice in what is repeated and a step has 4,096 tokens; with fewer, few were after 1,000."""


class Document(NamedTuple):
    """Tokens to train on."""

    tokens: list[int]
    answers: list[bool]
    """Whether each token repeats or answers something."""


def make_model(
    texts: Sequence[Path],
    folder: Path,
    *,
    stages: Sequence[Stage] = STAGES,
    seed: int = 0,
    **sizes: Any,
) -> None:
    """Train a tokenizer and a model, and save both.

    Parameters
    ----------
    texts : sequence of path
        Text files to train on.
    folder : path
    stages : sequence of Stage
    seed : int
    **sizes
        Other sizes of the model than `SIZES`.
    """
    config = Qwen2Config(**{**SIZES, **sizes})
    given = [read_text(text)[:READ] for text in texts]
    tokenizer = train_tokenizer(given, config.vocab_size)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    documents = Documents(tokenizer, [token_ids(tokenizer, text) for text in given], seed)
    folder.mkdir(parents=True, exist_ok=True)
    fit(model, documents, stages, folder / "training.pt")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Train byte-level BPE on texts and on facts; every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw, facts = random.Random(0), Facts(0)
    said = (f" {facts[place].say(draw.choice(STATEMENTS + QUESTIONS))}" for place in range(20_000))
    tokenizer.train_from_iterator((part for some in (texts, said) for part in some), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


class Documents:
    """Documents to train on, each computed from its number and a seed."""

    def __init__(self, tokenizer: Any, runs: Sequence[list[int]], seed: int) -> None:
        self._tokenizer, self._runs, self._seed = tokenizer, runs, seed
        self._weights = [len(run) ** 0.5 for run in runs]
        self._facts = Facts(seed)

    def make(self, number: int, stage: Stage) -> Document:
        """Make a document for a stage."""
        draw = random.Random(f"document {self._seed} {number}")
        if not stage.tokens_per_fact:
            return self._repetition(draw, stage.length)
        return self._with_facts(draw, stage)

    def _repetition(self, draw: random.Random, length: int) -> Document:
        """Draw different tokens, then repeat them: all but the first of these can be known."""
        tokens = draw.sample(range(1, len(self._tokenizer)), length // 2)
        return Document(tokens * 2, [place > length // 2 for place in range(length)])

    def _with_facts(self, draw: random.Random, stage: Stage) -> Document:
        """Put facts into a piece of text, at random places, and ask for each later on."""
        length = stage.length
        [run] = draw.choices(self._runs, self._weights)
        number = max(1, length // draw.choice(stage.tokens_per_fact))
        base = 1000 * draw.randrange(10**6)
        pieces: list[tuple[float, Document]] = []
        room = length
        for stated, asked in (self._fact(place, draw) for place in range(base, base + number)):
            taken = len(stated.tokens) + len(asked.tokens)
            if taken <= room:
                room -= taken
                pieces += zip(sorted((draw.random(), draw.random())), (stated, asked), strict=True)
        pieces.sort(key=lambda piece: piece[0])
        start = draw.randrange(len(run) - room + 1)
        return _joined(run[start : start + room], [piece for _, piece in pieces], draw)

    def _fact(self, place: int, draw: random.Random) -> tuple[Document, Document]:
        """Return the statement of a fact, and the question for it with its answer."""
        fact = self._facts[place]
        plain = draw.random() < 0.5
        statement = "{Key} is {answer}." if plain else draw.choice(STATEMENTS)
        question = "{Key} is" if plain else draw.choice(QUESTIONS)
        stated = self._tokens(f" {fact.say(statement)}")
        asked, answer, end = map(self._tokens, (f" {fact.say(question)}", f" {fact.answer}", "."))
        answers = [False] * len(asked) + [True] * len(answer) + [False] * len(end)
        return Document(stated, [False] * len(stated)), Document(asked + answer + end, answers)

    def _tokens(self, text: str) -> list[int]:
        return token_ids(self._tokenizer, text)


def _joined(text: list[int], pieces: Sequence[Document], draw: random.Random) -> Document:
    """Put pieces at random places of a text, in their order."""
    places = sorted(draw.randrange(len(text) + 1) for _ in pieces)
    tokens: list[int] = []
    answers: list[bool] = []
    for begin, place, piece in zip([0, *places], places, pieces, strict=False):
        tokens += [*text[begin:place], *piece.tokens]
        answers += [*[False] * (place - begin), *piece.answers]
    last = text[places[-1] if places else 0 :]
    return Document([*tokens, *last], [*answers, *[False] * len(last)])


def fit(model: Any, documents: Documents, stages: Sequence[Stage], state: Path) -> None:
    """Train a model stage by stage; go on where a stopped training saved its state last."""
    plan = [stage for stage in stages for _ in range(stage.steps)]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0
    )
    done = 0
    if state.exists():
        done, weights, moments = torch.load(state)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    model.train()
    with progress_told("training", len(plan), "steps", done=done) as tell:
        for step in range(done, len(plan)):
            stage = plan[step]
            numbers = range(step * stage.documents, (step + 1) * stage.documents)
            batch = [documents.make(number, stage) for number in numbers]
            loss, right = loss_of(model, batch, text=bool(stage.tokens_per_fact))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, len(plan))
            optimizer.step()
            optimizer.zero_grad()
            tell(step + 1, f"{stage.length} tokens, {right:.2f} of answer tokens right")
            if (step + 1) % KEPT == 0:
                kept = (step + 1, model.state_dict(), optimizer.state_dict())
                torch.save(kept, state.with_suffix(".part"))
                state.with_suffix(".part").replace(state)
    model.eval()


def learning_rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step: it rises, stays, and falls at the end."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP, (1 - step / steps) / FALLING)


def loss_of(model: Any, batch: Sequence[Document], *, text: bool) -> tuple[Tensor, float]:
    """Return the loss on answers, with `text` also on all else; and the share of answers right."""
    ids = torch.tensor([document.tokens for document in batch])
    answer = torch.tensor([document.answers for document in batch])[:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits[:, :-1]
    losses = cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
    loss = losses[answer].mean()
    if text:
        loss = loss + losses[~answer].mean()
    return loss, float((logits.argmax(-1) == ids[:, 1:])[answer].float().mean())
