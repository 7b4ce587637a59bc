"""Shows the progress of a training."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback


class Progress(TrainerCallback):
    """A bar on stderr, with the last loss and the last share of right answer tokens.

    Where stderr is not a terminal, each of these figures is a line of a log.
    """

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._console = Console(stderr=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar at the first step, or at that of a checkpoint."""
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show the logged figures."""
        names = {"loss": "loss", "eval_answers_right": "answers right"}
        logged = logs or {}
        self._shown |= {
            names[name]: f"{float(logged[name]):.3f}" for name in names if name in logged
        }
        text = ", ".join(f"{name} {figure}" for name, figure in self._shown.items())
        self._bar.update(self._task, description=text)
        if self._bar.disable:
            step = f"training: step {state.global_step} of {state.max_steps}"
            self._console.print(f"{step}, {text}", soft_wrap=True, highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the bar, and leave it on the screen."""
        self._bar.stop()
