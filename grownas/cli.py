"""The console script: parses, calls and prints; no logic. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grownas import __version__
from grownas.errors import USER_ERROR, ConfigError, GrownasError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURE, INTERRUPTED = 1, 130
KEYS = "`grownas show CONFIG` prints all keys, what they are set to and what they mean."
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value]...")
FILE = click.Path(dir_okay=False, path_type=Path)
RUN = click.argument("run", type=click.Path(path_type=Path), metavar="RUN")


class _Group(click.Group):
    """Suggests the nearest command."""

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(context), n=1)
            if near and "Did you mean" not in error.message:  # click 8.2 says nothing
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", context) from error
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grownas")
def cli() -> None:
    """Grow recurrent cells by morphisms that keep the learned function.

    CONFIG is a path or the name of a shipped config, such as index_returns/growing. Overrides are dotted:
    task.data=closes.csv seed=3 strategy.patience=5. `runs=DIR` sets where run folders go, `name=NAME` a folder's name.
    `grownas show CONFIG` prints all keys, what they are set to and what they mean.
    """


@cli.command(epilog=KEYS)
@click.argument("config")
@OVERRIDES
def search(config: str, overrides: tuple[str, ...]) -> None:
    """Grow a cell, retrain it, and score it beside baselines."""
    from grownas.config.loading import load
    from grownas.runs import commands as run

    run.search(load(config, overrides))


@cli.command(epilog=KEYS)
@click.argument("config")
@OVERRIDES
def compare(config: str, overrides: tuple[str, ...]) -> None:
    """Search and run every baseline over several seeds, with tests."""
    from grownas.config.loading import load
    from grownas.runs import commands as run

    run.compare(load(config, overrides))


@cli.command(epilog=KEYS)
@click.argument("config")
@OVERRIDES
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train a cell or a baseline from scratch and score it.

    genotype=PATH takes the genotype.json of a cell, genotype=darts_v2 a published cell, genotype=gru a baseline.
    """
    from grownas.config.loading import load
    from grownas.runs import commands as run

    what = [item.partition("=")[2] for item in overrides if item.startswith("genotype=")]
    if len(what) != 1 or not what[0]:
        raise ConfigError(
            "train needs one genotype=: the path of a genotype.json, a published cell such as genotype=darts_v2, or a "
            "baseline such as genotype=gru"
        )
    run.train(load(config, [item for item in overrides if not item.startswith("genotype=")]), what[0])


@cli.command()
@RUN
@OVERRIDES
def resume(run: Path, overrides: tuple[str, ...]) -> None:
    """Go on with an interrupted run."""
    from grownas.runs.commands import resume as go_on

    go_on(run, overrides)


@cli.command()
@RUN
@OVERRIDES
def evaluate(run: Path, overrides: tuple[str, ...]) -> None:
    """Reload the saved model and score it again, also on other data.

    task.data=NEW names other series of the same columns, or another text. device, backend and threads say what
    computes. A text may be scored otherwise, for example with task.cache_size=500 or task.dynamic_rate=0.00003.
    """
    from grownas.runs import reload

    for part, scores in reload.evaluate(run, overrides).items():
        metric, value = next(iter(scores.items()))
        click.echo(f"{part} {metric} {value!r}")
        keys = ("mae", "r2", "hit_rate", "nll", "bits_per_word")
        details = [f"{key} {scores[key]:.6g}" for key in keys if scores.get(key) is not None]
        kinds = {"count": "forecasts", "tokens": "tokens"}
        counted = [f"{scores[key]} {what}" for key, what in kinds.items() if key in scores]
        click.echo(f"  {', '.join(details + counted)}")


@cli.command()
@RUN
@OVERRIDES
def predict(run: Path, overrides: tuple[str, ...]) -> None:
    """Write forecasts.csv, with the day ahead."""
    from grownas.runs import reload

    click.echo(reload.predict(run, overrides))


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN [RUN]...")
def report(runs: tuple[Path, ...]) -> None:
    """Write report.html of one run, or a comparison of several."""
    from grownas.report.page import write_report

    click.echo(write_report(runs))


@cli.command()
@click.argument("what", metavar="RUN|GENOTYPE|CONFIG")
@OVERRIDES
def show(what: str, overrides: tuple[str, ...]) -> None:
    """Print the cell of a run or genotype, or all keys of a config.

    A genotype is the path of a genotype.json or a published cell: darts_v1, darts_v2, enas.

    Of a cell: nodes, ops, shares, parameters. Of a config, a path or the name of a shipped one: every key, its value
    with the overrides given, and what it means, in YAML that can be saved as a config of your own.
    """
    from grownas.config.listing import is_config, listing

    if is_config(what):
        from grownas.config.loading import load

        click.echo(listing(load(what, overrides)))
        return
    if overrides:
        raise ConfigError(f"{' '.join(overrides)}: only a config takes key=value, and {what} is none")
    from grownas.runs import reload

    click.echo(reload.show(Path(what)))


@cli.command()
@click.option("--quick", is_flag=True, help="Measure for less than a minute.")
@click.option("--only", default="", metavar="TEXT", help="Only the rows whose name holds TEXT, such as 'T20 B32'.")
@click.option("--json", "json_path", type=FILE, help="Write all figures, the machine and versions.")
@click.option("--picture", type=FILE, help="Draw each backend's ratio to the floor; .svg or .png.")
@click.option("--against", type=FILE, help="Compare ratios with what --json wrote; exit with 1 if one is worse.")
def bench(quick: bool, only: str, json_path: Path | None, picture: Path | None, against: Path | None) -> None:
    """Time this machine's backends against nn.LSTM and plain autograd.

    Also says which bars hold.
    """
    from grownas.bench import suite

    if not suite.run(click.echo, quick=quick, only=only, json=json_path, picture=picture, against=against):
        raise click.exceptions.Exit(FAILURE)


def main() -> None:
    """Run the command line and exit with the status that CONTRACT gives."""
    warnings.formatwarning = _plain
    sys.exit(_status(cli))


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Return a warning as users are to read it: without the place in the code."""
    return f"warning: {message}\n"


def _status(command: Callable[..., Any]) -> int:
    try:
        return int(command(standalone_mode=False) or 0)  # what a command exits with, else None
    except click.Abort as error:  # click's own word for KeyboardInterrupt, which it keeps as the cause
        return _interrupted(error.__cause__)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GrownasError as error:
        return _say(f"error: {error}", USER_ERROR)
    except TrainingError as error:
        return _say(f"error: training stopped: {error}", FAILURE)
    except KeyboardInterrupt as error:
        return _interrupted(error)


def _interrupted(error: BaseException | None) -> int:
    if error is not None and error.args:
        return _say(f"interrupted; `grownas resume {error.args[0]}` continues the run", INTERRUPTED)
    return _say("interrupted before anything was saved: start the command again", INTERRUPTED)


def _say(text: str, status: int) -> int:
    click.echo(text, err=True)
    return status
