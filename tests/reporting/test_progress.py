"""How progress is told, second by second, under a clock that stands until it is set."""

import io
import re

import pytest

from pytest_quantcheck.reporting.progress_line import ProgressLine
from pytest_quantcheck.text import duration


class Clock:
    """A clock that shows what it was set to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Told:
    """A progress, its clock and what it wrote."""

    def __init__(self, *, interactive, **options):
        self.clock, self.written = Clock(), []
        subject = options.pop("subject", "int8 on boolq")
        self.progress = ProgressLine(
            self.written.append, subject=subject, interactive=interactive, clock=self.clock, **options
        )

    def advance(self, n, *, after):
        """So many prompts are done after so many seconds more; return what was written."""
        self.clock.now += after
        before = len(self.written)
        self.progress.advance(n)
        return self.written[before:]

    @property
    def screen(self):
        """What a terminal shows."""
        rows, row = [""], 0
        for part in re.findall(r"\r|\n|\x1b\[\d+A|[^\r\n\x1b]+", "".join(self.written)):
            if part == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif part.startswith("\x1b"):
                row -= int(part[2:-1])
            elif part != "\r":
                rows[row] = part + rows[row][len(part) :]
        return "\n".join(row.rstrip() for row in rows).rstrip()


@pytest.fixture
def terminal():
    """ProgressLine that somebody watches, in its first phase."""
    told = Told(interactive=True)
    told.progress.start("measuring", 512)
    return told


@pytest.fixture
def log():
    """ProgressLine that goes into a log, in its first phase."""
    told = Told(interactive=False)
    told.progress.start("measuring", 512)
    return told


def test_terminal_shows_time_left(terminal):
    """One line says what is done and, from the pace so far, how long the rest takes."""
    assert terminal.screen == "int8 on boolq, measuring: 0/512 prompts"
    terminal.advance(128, after=13.0)
    assert terminal.screen == "int8 on boolq, measuring: 128/512 prompts, about 39 s left"


def test_terminal_line_is_never_left_behind(terminal):
    """A shorter line leaves nothing of a longer one, and the end of a phase leaves an empty line."""
    terminal.advance(128, after=13.0)
    terminal.advance(384, after=1.0)
    assert terminal.screen == "int8 on boolq, measuring: 512/512 prompts"
    terminal.progress.finish()
    assert terminal.screen == ""
    assert "\n" not in "".join(terminal.written)


def test_terminal_is_not_rewritten_for_every_prompt(terminal):
    """A fast phase rewrites its line ten times a second at most."""
    assert terminal.advance(1, after=0.05) == []
    assert len(terminal.advance(1, after=0.06)) == 1


def test_terminal_line_does_not_wrap():
    """A line that would wrap could not be rewritten: of a long name the end is shown."""
    told = Told(interactive=True, width=40, subject="models/" + "x" * 100)
    told.progress.start("measuring", 512)
    assert len(told.screen) == 39
    assert told.screen.endswith("x, measuring: 0/512 prompts")


def test_error_takes_the_line_away(terminal):
    """An interrupted phase leaves a clean line for the error, and claims no success."""
    with pytest.raises(KeyboardInterrupt), terminal.progress:
        raise KeyboardInterrupt
    assert terminal.screen == ""


def test_log_is_quiet_until_it_takes_long(log):
    """In a log a phase has no line before its first half minute, and one each half minute from then on."""
    assert log.advance(100, after=29.0) == []
    assert log.advance(28, after=1.0) == ["int8 on boolq, measuring: 128/512 prompts, about 90 s left\n"]
    assert log.advance(128, after=29.0) == []
    assert len(log.advance(1, after=1.0)) == 1


def test_log_says_how_long_a_phase_took(log):
    """The end of a long phase is one line with its time."""
    log.advance(512, after=30.0)
    log.progress.finish()
    assert log.written[-1] == "int8 on boolq, measuring: 512 prompts in 30 s\n"


def test_log_says_nothing_of_short_work(log):
    """A phase of less than half a minute leaves no line."""
    log.advance(512, after=29.9)
    log.progress.finish()
    assert log.written == []


def test_second_phase_starts_anew(log):
    """Another phase counts its own prompts and its own time."""
    log.advance(512, after=40.0)
    log.progress.finish()
    log.progress.start("attributing", 64)
    assert log.advance(32, after=20.0) == []
    assert log.advance(32, after=20.0) == ["int8 on boolq, attributing: 64/64 prompts\n"]
    log.progress.finish()
    assert log.written[-1] == "int8 on boolq, attributing: 64 prompts in 40 s\n"


def test_error_in_a_log_claims_no_success(log):
    """A phase that failed has no line that says it took so long."""
    with pytest.raises(ValueError, match="broken"), log.progress:
        raise ValueError("broken")
    assert log.written == []


@pytest.mark.parametrize("interactive", [True, False])
def test_closed_stream_fails_nothing(interactive):
    """ProgressLine on a stream that is gone goes on in silence."""
    stream, clock = io.StringIO(), Clock()
    stream.close()
    with ProgressLine(stream.write, subject="nf4 on boolq", interactive=interactive, clock=clock) as progress:
        progress.start("measuring", 8)
        clock.now += 60
        progress.advance(8)
        progress.finish()


def test_broken_pipe_is_tried_once():
    """A stream that failed is not written to again."""
    tried = []

    def write(text):
        tried.append(text)
        raise BrokenPipeError

    progress = ProgressLine(write, subject="nf4 on boolq", interactive=True, clock=Clock())
    progress.start("measuring", 8)
    progress.finish()
    assert len(tried) == 1


def test_names_of_any_script_can_be_written():
    """A line is ASCII, whatever the prompt set is called, and has no line end inside."""
    told = Told(interactive=False, subject="nf4 on größe\n")
    told.progress.start("measuring", 1)
    assert told.advance(1, after=30.0) == ["nf4 on gr\\xf6\\xdfe , measuring: 1/1 prompts\n"]


def test_terminal_says_that_a_model_is_loaded():
    """What comes before the first phase is on the line too, until then."""
    told = Told(interactive=True)
    told.progress.say("loading")
    assert told.screen == "int8 on boolq: loading"
    told.progress.start("measuring", 512)
    assert told.screen == "int8 on boolq, measuring: 0/512 prompts"


def test_log_says_what_is_waited_for():
    """In a log loading is not worth a line; that another process is waited for is, unless it is one of the same run."""
    told, alone = Told(interactive=False), Told(interactive=False, alone=True)
    told.progress.say("loading")
    told.progress.say("waiting", log=True)
    alone.progress.say("waiting", log=True)
    assert (told.written, alone.written) == (["int8 on boolq: waiting\n"], [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "less than 1 s"), (1.4, "1 s"), (99.4, "99 s"), (100.0, "2 min"), (5999.0, "100 min"), (9000.0, "2.5 h")],
)
def test_duration(seconds, text):
    """A time has the unit in which people would say it."""
    assert duration(seconds) == text


def test_terminal_shows_a_line_for_each_worker(terminal):
    """Below what is done in all, each in its place; the end takes them all away."""
    terminal.clock.now += 1
    terminal.progress.workers(["worker 1: shard 1 of 4, measuring 16/128", "worker 2: waiting"])
    terminal.clock.now += 1
    terminal.progress.workers(["worker 1: waiting", "worker 2: loading"])
    assert terminal.screen == "int8 on boolq, measuring: 0/512 prompts\n  worker 1: waiting\n  worker 2: loading"
    terminal.progress.finish()
    assert not terminal.screen
    terminal.progress.start("merging", 1)
    assert terminal.screen == "int8 on boolq, merging: 0/1 prompts"


def test_terminal_has_room_for_workers_that_are_gone(terminal):
    """Of many workers the first are shown, and how many more there are; one less leaves no line behind."""
    for n in (20, 2):
        terminal.clock.now += 1
        terminal.progress.workers([f"worker {number}" for number in range(1, n + 1)])
        assert len(terminal.screen.splitlines()) == min(n, 9) + 1, terminal.screen
    assert terminal.screen.endswith("  worker 1\n  worker 2")


def test_log_gets_a_line_for_each_worker_every_half_minute(log):
    """As often as what is done in all."""
    log.progress.workers(["worker 1: loading"])
    assert not log.written
    log.clock.now += 31
    log.progress.workers(["worker 1: shard 1 of 4, measuring 16/128"])
    assert log.written == ["int8 on boolq, measuring: 0/512 prompts\n  worker 1: shard 1 of 4, measuring 16/128\n"]
