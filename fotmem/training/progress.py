"""Shows the progress of a training."""

from contextlib import ExitStack
from typing import Any, ClassVar, Self

from transformers import TrainerCallback

from fotmem.progress import progress_told


class Progress(TrainerCallback):
    """Tells the steps, the last loss, and the last share of right answer tokens.

    A context manager: the bar ends with its block, also where training fails.

    Parameters
    ----------
    shown : bool
        Whether on stderr, and not only in the log.
    """

    NAMES: ClassVar = {"loss": "loss", "eval_answers_right": "answers right"}

    def __init__(self, shown: bool) -> None:
        self._is_shown = shown
        self._figures: dict[str, str] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at the first step, or at that of a checkpoint."""
        told = progress_told(
            "training", state.max_steps, "steps", shown=self._is_shown, done=state.global_step
        )
        self._tell = self._open.enter_context(told)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        self._tell(state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show the logged figures."""
        logged = logs or {}
        self._figures |= {
            shown: f"{float(logged[name]):.3f}"
            for name, shown in self.NAMES.items()
            if name in logged
        }
        text = ", ".join(f"{name} {figure}" for name, figure in self._figures.items())
        self._tell(state.global_step, text)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the bar on the screen."""
        self._open.close()
