"""The terminal display of the demo: a live picture on a terminal, plain lines everywhere else."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wm_ros.contract.errors import UserError
from wm_ros.viz.demo_state import DemoState, EpisodeRow

BLOCKS = "▁▂▃▄▅▆▇█"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
REFRESH_HZ = 4
"""Often enough for a clock and a bar; each picture costs a few milliseconds of a robot's computer."""
QUIET_S = 3.0
"""Diagnostics come at 1 Hz: after three missed ones a node is shown as silent."""
LEARN, EVALUATE = "cyan", "green"
WIDE = 92
"""Columns of a terminal from which on there is room for bars."""


def sparkline(values: Sequence[float], width: int, low: float | None = None, high: float | None = None) -> str:
    """Values as a row of block characters, at most `width` of them; each block is the mean of its share."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite or width < 1:
        return ""
    count = min(width, len(finite))
    shares = [finite[i * len(finite) // count : (i + 1) * len(finite) // count] for i in range(count)]
    means = [sum(share) / len(share) for share in shares]
    bottom, top = (min(means) if low is None else low), (max(means) if high is None else high)
    span = (top - bottom) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int((m - bottom) / span * len(BLOCKS))))] for m in means)


def bar(fraction: float, width: int) -> str:
    """A thin bar in halves of a character, `width` characters at 1."""
    halves = round(max(0.0, min(1.0, fraction)) * width * 2) if math.isfinite(fraction) else 0
    return "━" * (halves // 2) + ("╸" if halves % 2 else "")


def clock_text(seconds: float) -> str:
    """12.3 s below a minute, then 1:02."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Console:
    """Shows a demo while it runs.

    Thread-safe: events may come from any thread, the picture is drawn by its own. A malformed event is said and left out,
    since a display must never end what it shows.

    Args:
        stream: where to write; without a terminal behind it the output is plain.
        total_episodes: training episodes planned.
        evaluation_episodes: evaluation episodes planned.
        plain: plain lines, also on a terminal.
        title: what is being learned.
        episode_s: robot time of a full episode in seconds, for the progress bar; 0 where unknown.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        stream: TextIO,
        total_episodes: int,
        evaluation_episodes: int,
        plain: bool = False,
        *,
        title: str = "wm_ros",
        episode_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = DemoState(total_episodes, evaluation_episodes)
        self._title, self._episode_s = title, episode_s
        self._stream, self._clock, self._started = stream, clock, clock()
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._closed = False
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._rich = RichConsole(file=stream, highlight=False)
        drawable = stream.isatty() and not self._rich.is_dumb_terminal and self._encoding.lower().startswith("utf")
        if drawable and not plain:
            self._live = Live(
                get_renderable=self.picture,
                console=self._rich,
                refresh_per_second=REFRESH_HZ,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()

    # ---- what callers use -----------------------------------------------------------------------------------------

    def handle(self, event: Mapping[str, Any]) -> None:
        """Takes one event `{"event": kind, "time": s, "data": {...}}` in and shows it."""
        with self._lock:
            try:
                line = self.state.apply(event, self._now)
            except UserError as error:
                line = f"ignored: {error}"
            if line is not None and self._live is None:
                self._line(line)

    def phase(self, name: str) -> None:
        """Says that a new phase of the demo begins."""
        with self._lock:
            self.state.enter(name, self._now)
            if self._live is None:
                self._line(f"== {name}")

    def note(self, text: str) -> None:
        """Says one thing that is no event, above the picture."""
        with self._lock:
            live = self._live
            if live is None:
                self._line(text)
        # Outside the lock: rich takes its own, and the thread that draws takes them in the other order.
        if live is not None:
            self._rich.print(Text.assemble(("▸ ", "bold cyan"), text))

    def close(self) -> None:
        """Leaves the last picture on the terminal; safe to call twice."""
        with self._lock:
            live, self._live, self._closed = self._live, None, True
        # Outside the lock: stopping joins the thread that draws, and drawing takes the lock.
        if live is not None:
            live.stop()

    # ---- the picture ----------------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self._clock() - self._started

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns

    def _line(self, text: str) -> None:
        line = f"[{self._now:7.1f} s] {text}\n"
        self._stream.write(line.encode(self._encoding, "replace").decode(self._encoding))
        self._stream.flush()

    def picture(self) -> RenderableType:
        """The whole display, as it is now."""
        with self._lock:
            parts: list[RenderableType] = [self._phases(), Text(), self._episodes()]
            if not self._closed:
                parts += [Text(), self._current(), self._trainer(), Text.assemble(("  next  ", "dim"), self.state.next_step())]
            if self.state.nodes or not self._closed:
                parts += [Text(), self._health()]
            heading = (
                Text.assemble((" wm_ros ", "bold"), ("· ", "dim"), (self._title, "bold"), " ") if self._title != "wm_ros" else " wm_ros "
            )
            return Panel(
                Group(*parts),
                title=heading,
                title_align="left",
                subtitle=f" {clock_text(self._now)} ",
                subtitle_align="right",
                border_style="bright_black",
                box=box.ROUNDED,
                padding=(0, 1),
            )

    def _phases(self) -> Text:
        line, phases, now = Text("  "), self.state.phases, self._now
        for i, (name, began) in enumerate(phases):
            last = i == len(phases) - 1
            until = now if last else phases[i + 1][1]
            running = last and not self._closed
            mark = (f"{SPINNER[int(now * 8) % len(SPINNER)]} ", "bold yellow") if running else ("✔ ", "green")
            line.append(*mark).append(name, "bold" if running else "dim").append(f" {clock_text(until - began)}", "dim")
            if not last:
                line.append("  ▸  ", "bright_black")
        return line if phases else line.append("starting", "dim")

    def _episodes(self) -> Table:
        # On a narrow terminal the figures stay and the ornaments go.
        wide = self._width >= WIDE
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=True, header_style="dim", show_edge=False)
        table.add_column("", no_wrap=True, ratio=None if wide else 1)
        table.add_column("return", justify="right", no_wrap=True)
        if wide:
            table.add_column("", no_wrap=True, ratio=1)
            table.add_column("driver", justify="right", no_wrap=True)
        for name in ("model error", "training", "plan p50 / p99"):
            table.add_column(name, justify="right", no_wrap=True)
        scale = max(self.state.best, 1e-9)
        for row in self._visible_rows():
            colour = EVALUATE if row.purpose == "evaluate" else LEARN
            running = row.state in ("starting", "running")
            if row.state == "discarded":
                table.add_row(Text(self.state.label(row), "dim strike"), Text("discarded", "dim"))
                continue
            drawn = Text(bar(row.total / scale, min(28, self._width - 84)), f"dim {colour}" if running else colour)
            driver = Text("random" if row.version == 0 else f"v{row.version}" if row.version > 0 else "", "dim")
            table.add_row(
                Text(self.state.label(row), f"bold {colour}" if running else ""),
                Text(f"{row.total:.1f}", "bold" if not running else "dim"),
                *((drawn, driver) if wide else ()),
                measured(row.model_error, "{:.3g}"),
                measured(row.train_s, "{:.1f} s"),
                latency(row),
            )
        if not self.state.rows:
            table.add_row(Text("waiting for the first episode", "dim"))
        return table

    def _visible_rows(self) -> list[EpisodeRow]:
        """As many of the newest rows as the terminal has room for; all of them in the last picture."""
        # Everything but the rows of episodes takes 14 lines.
        room = len(self.state.rows) if self._closed else max(3, shutil.get_terminal_size().lines - 14)
        return self.state.rows[-room:]

    def _current(self) -> RenderableType:
        row = self.state.current
        if row is None:
            return Text.assemble(("  now   ", "dim"), ("between episodes", "dim"))
        colour = EVALUATE if row.purpose == "evaluate" else LEARN
        line = Table.grid(padding=(0, 1))
        for _ in range(5):
            line.add_column(no_wrap=True)
        whole = self._episode_s
        line.add_row(
            Text("  now  ", "dim"),
            Text(self.state.label(row), f"bold {colour}"),
            ProgressBar(total=whole, completed=min(row.elapsed_s, whole), width=24, complete_style=colour, finished_style=colour)
            if whole
            else Text(f"{row.elapsed_s:.1f} s"),
            Text(f"return {row.total:6.1f}", "bold"),
            Text(sparkline(list(self.state.rewards), max(4, min(24, self._width - 68))), colour),
        )
        return line

    def _trainer(self) -> Text:
        progress = self.state.progress
        line = Text.assemble(("  model ", "dim"))
        if progress is None:
            return line.append("no data yet", "dim")
        busy = progress.phase in ("reading", "training", "exporting")
        line.append(f"{progress.phase} ", "bold red" if progress.phase == "failed" else "bold yellow" if busy else "green")
        line.append(f"v{progress.version}", "bold")
        if progress.epochs and progress.phase == "training":
            line.append(f"  epoch {progress.epoch}/{progress.epochs} ", "dim").append(bar(progress.epoch / progress.epochs, 12), "yellow")
        if progress.transitions:
            line.append(f"  {progress.transitions} transitions", "dim")
        if progress.holdout_loss is not None:
            line.append(f"  held-out loss {progress.holdout_loss:.3g}", "dim")
        if progress.seconds:
            line.append(f"  {progress.seconds:.1f} s", "dim")
        return line.append(f"  {progress.message}" if progress.message else "", "red" if progress.phase == "failed" else "dim")

    def _health(self) -> Text:
        line, now = Text.assemble(("  nodes ", "dim")), self._now
        if not self.state.nodes:
            return line.append("none heard yet", "dim")
        for name in sorted(self.state.nodes):
            health = self.state.nodes[name]
            quiet = now - health.heard_s > QUIET_S and not self._closed
            style = "bright_black" if quiet else ("green", "yellow", "red", "red")[min(max(health.level, 0), 3)]
            line.append("● " if not quiet else "○ ", style).append(name.rpartition("/")[2], "" if style == "green" else style)
            said = "silent" if quiet else health.message if health.level else ""
            misses = health.values.get("deadline_misses", "0")
            if misses not in ("0", "0.0"):
                said = f"{said} {misses} missed".strip()
            line.append(f" ({said})  " if said else "  ", style if said else "")
        return line


def measured(value: float, form: str) -> Text:
    """A figure, or a quiet dot where there is none yet."""
    return Text(form.format(value)) if math.isfinite(value) else Text("·", "bright_black")


def latency(row: EpisodeRow) -> Text:
    """Median and 99th percentile of the planner's latency in one episode."""
    if not math.isfinite(row.p50_ms):
        return measured(row.p50_ms, "")
    tail = f" / {row.p99_ms:.1f}" if math.isfinite(row.p99_ms) else ""
    return Text(f"{row.p50_ms:.1f}{tail} ms")
