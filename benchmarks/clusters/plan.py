"""What `make bench-clusters` measures."""

from dataclasses import dataclass

DIFFUSE = (8, 16)
"""Layers whose attention is spread over many keys."""
TIMED = (16, 20)
"""Layers whose times are measured: of diffuse attention, and the one whose queries read most."""
MEMORY = (17, 18, 20, 21, 23)
"""Memory layers of the tuned model."""
TUNED, BASE = "smollm2-fot", "smollm2"
STEP = 2048
"""Tokens of one `add`."""


@dataclass(frozen=True)
class Plan:
    """Sizes and repetitions."""

    name: str
    models: tuple[str, ...]
    layers: tuple[int, ...]
    tokens: int
    """Remembered tokens of a capture."""
    window: int
    """Window of the model that is captured."""
    queries: int
    """Queries of a head whose errors are measured."""
    steps: tuple[int, ...]
    """Sizes at which a decoding step is timed."""
    windows: tuple[int, ...]
    """Sizes at which a window of queries is timed."""
    tenfold: tuple[int, int]
    """Two of `steps`: a size, and ten times as much."""
    rounds: int
    """In which all sides are timed in turn."""
    share: float = 0.01
    """Keys that a query may read."""


FULL = Plan(
    name="full",
    models=(TUNED, BASE),
    layers=tuple(sorted({*range(0, 30, 4), *MEMORY})),
    tokens=65_536,
    window=2048,
    queries=128,
    steps=(65_536, 104_858, 262_144, 1_048_576),
    windows=(65_536, 262_144),
    tenfold=(104_858, 1_048_576),
    rounds=9,
)
QUICK = Plan(
    name="quick",
    models=(TUNED,),
    layers=(16, 20),
    tokens=16_384,
    window=512,
    queries=64,
    steps=(8192, 16_384, 81_920),
    windows=(16_384,),
    tenfold=(8192, 81_920),
    rounds=7,
)
