"""What a run prints: the data card, the progress bar, the final table, the commands to type next."""

import contextlib
import shlex

from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def plain(text: str) -> Text:
    """The text as it is: no markup, no emoji for a `:name:`, and what would move the cursor shown as its escape."""
    return Text("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text))


class Console:
    """Prints to a terminal with rich; where there is none, plain lines without a moving bar."""

    def __init__(self, quiet: bool = False):
        self.rich = RichConsole(highlight=False, soft_wrap=True, quiet=quiet)

    def quiet(self) -> "Console":
        """One that prints nothing, for the workers that are not the chief."""
        return Console(quiet=True)

    def log(self, text: str) -> None:
        self.rich.print(plain(text))

    def card(self, rows) -> None:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in rows:
            table.add_row(plain(label), plain(text))
        self.rich.print(table, soft_wrap=False)

    @contextlib.contextmanager
    def progress(self, label: str, total: int):
        """Yields `advance(n)`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.rich, disable=not self.rich.is_terminal, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda n: bar.advance(task, n)

    @contextlib.contextmanager
    def training(self, total: int, done: int):
        """Yields `show(trainer, metrics)`; on a terminal a bar, elsewhere a line each tenth of the run."""
        columns = (
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.rich, disable=not self.rich.is_terminal, expand=True) as bar:
            task = bar.add_task("", total=total, completed=done, text="compiling")
            printed = done * 10 // total

            def show(trainer, metrics):
                nonlocal printed
                speed = f"{trainer.examples_per_second:,.0f} records/s" if trainer.examples_per_second else ""
                text = "ELBO {elbo:.2f} = -({distortion:.2f} + {rate:.2f})".format(**metrics)
                if (best := trainer.watch.state["best"]) is not None:
                    text += f"  validation {best:.2f}" if trainer.decides == "elbo" else f"  validation loss {-best:.2f}"
                bar.update(task, completed=trainer.step, text=f"{text}  {speed}")
                if not self.rich.is_terminal and trainer.step * 10 // total > printed:
                    printed = trainer.step * 10 // total
                    self.log(f"step {trainer.step:,}/{total:,}  {text}  {speed}")

            yield show

    @contextlib.contextmanager
    def standing(self):
        """Yields `show(title, headings, rows)`: one table that is drawn anew in its place; without a terminal nothing is drawn."""
        with Live(console=self.rich, refresh_per_second=4, transient=True) if self.rich.is_terminal else contextlib.nullcontext() as live:

            def show(title, headings, rows):
                if live:
                    table = Table(title=plain(title))
                    for heading in headings:
                        table.add_column(heading, overflow="fold")
                    for row in rows:
                        table.add_row(*map(plain, row))
                    live.update(table)

            yield show

    def table(self, title: str, rows) -> None:
        """(figure, value, remark) lines."""
        table = Table(title=plain(title))
        for heading in ("figure", "value", "remark"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for row in rows:
            table.add_row(*map(plain, row))
        self.rich.print(table, soft_wrap=False)

    def done(self, folder, rows, served: str, seconds: float, verb: str) -> None:
        """The table, where things are, and what to type next: `verb` is what the run is for."""
        self.table(f"{folder.name}: test split", rows)
        run = shlex.quote(str(folder))
        self.log(f"{seconds:.0f} seconds. Report: {folder}/report.html  SavedModel: {served}  Figures: {folder}/report.json")
        self.log("Next:")
        for command in (
            f"python -m keras_vae {verb} {run}",
            f"python -m keras_vae reconstruct {run}",
            f"python -m keras_vae evaluate {run}",
            f"tensorboard --logdir {run}/events",
        ):
            self.log(f"  {command}")
