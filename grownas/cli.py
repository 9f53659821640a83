"""The console script: it parses arguments, calls the library and prints. Heavy imports are inside the commands."""

from __future__ import annotations

import os
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
MOST_SHOWN = 20  # `predict` prints the next step of at most this many series
KEYS = "`grownas show CONFIG` prints every key with its value and meaning."
FILE = click.Path(dir_okay=False, path_type=Path)
SHELLS = ("bash", "zsh", "fish")
COMPLETE = "_GROWNAS_COMPLETE"  # click's environment variable: the completion scripts set it


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from grownas.completion import complete

    return complete(context, parameter, incomplete)


CONFIG = click.argument("config", shell_complete=_complete)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[key=value]...", shell_complete=_complete)
RUN = click.argument("run", type=click.Path(path_type=Path), metavar="RUN", shell_complete=_complete)


class _Group(click.Group):
    """A group that suggests the nearest command for an unknown one."""

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
    """Grow recurrent cells from a linear model, and keep the changes that improve them.

    CONFIG is a path or the name of a shipped config, such as index_returns/growing. Set any key of the config with
    key=value: task.data=closes.csv seed=3 strategy.patience=5. runs=DIR sets the folder in which run folders are
    created, name=NAME the name of the run folder. `grownas show CONFIG` prints every key with its value and meaning.

    Exit status: 0 success, 2 wrong input, 130 interrupted, 1 any other failure.
    """


@cli.command(epilog=KEYS)
@CONFIG
@OVERRIDES
def search(config: str, overrides: tuple[str, ...]) -> None:
    """Search for a cell, retrain it, and compare it with baselines.

    Prints a table of scores and writes a run folder with the cell, its weights, all logs and report.html. Ctrl-C
    stops the run after the current step; `grownas resume RUN` continues it.
    """
    from grownas.config.loading import load

    chosen = load(config, overrides)  # report config errors before importing PyTorch, which takes seconds
    from grownas.runs import commands as run

    run.search(chosen)


@cli.command(epilog=KEYS)
@CONFIG
@OVERRIDES
def compare(config: str, overrides: tuple[str, ...]) -> None:
    """Compare the search with every baseline over several seeds.

    Each seed is a separate run in its own process; workers=N runs N of them in parallel. Prints a table of means,
    standard deviations and significance tests, and writes them to comparison.json and report.html.
    """
    from grownas.config.loading import load

    chosen = load(config, overrides)
    from grownas.runs import commands as run

    run.compare(chosen)


@cli.command(epilog=KEYS)
@CONFIG
@OVERRIDES
def backtest(config: str, overrides: tuple[str, ...]) -> None:
    """Forecast, then learn, block by block through the test part.

    Every model forecasts a block of rows, and learns from it before it forecasts the next one. The keys of the section
    backtest may be written without its name:

    \b
      every=21            rows of a block
      how=[continue,grow] how the grown cell learns, see `grownas update`
      when=drift          learn only when the losses have risen
      coverage=0.9        nominal coverage of the prediction intervals
      origin=2021-06-01   first day to forecast; default: the test part

    A text is read in rows of 100 words: origin is the number of a row, by default half of them, and then=PATH adds a
    further text.

    Writes a folder with backtest.json, forecasts and losses by row, and report.html; prints mean losses, the time of
    all work and tests over all blocks.
    """  # noqa: D301, click reads the backslash
    from grownas.config.loading import load
    from grownas.config.sections import BacktestSection, LanguageBacktest

    own = {**BacktestSection.model_fields, **LanguageBacktest.model_fields}
    chosen = load(config, [f"backtest.{item}" if item.partition("=")[0] in own else item for item in overrides])
    from grownas.runs import commands as run

    run.backtest(chosen)


@cli.command(epilog=KEYS)
@CONFIG
@OVERRIDES
def train(config: str, overrides: tuple[str, ...]) -> None:
    """Train a given cell or baseline from scratch and score it.

    genotype=PATH trains the cell of a genotype.json, genotype=darts_v2 a published cell, genotype=gru a baseline.
    """
    from grownas.config.loading import load
    from grownas.runs import commands as run

    what = [item.partition("=")[2] for item in overrides if item.startswith("genotype=")]
    if len(what) != 1 or not what[0]:
        raise ConfigError(
            f"train needs genotype= exactly once, got {len(what)}; give the path of a genotype.json, a "
            "published cell such as genotype=darts_v2, or a baseline such as genotype=gru"
        )
    run.train(load(config, [item for item in overrides if not item.startswith("genotype=")]), what[0])


@cli.command(epilog=KEYS)
@CONFIG
@OVERRIDES
def tabulate(config: str, overrides: tuple[str, ...]) -> None:
    """Train random genotypes and write a table for replays.

    out=FILE names the file. Searches with task.replay=FILE then look results up in it instead of training. The config's
    `strategy.genotypes` genotypes are trained with each of its `seeds`.
    """
    from grownas.config.loading import load

    out, overrides = _taken("out", overrides)
    if out is None:
        raise ConfigError("tabulate needs the file to write, such as out=planted.jsonl")
    chosen = load(config, overrides)
    from grownas.runs import commands as run

    click.echo(run.tabulate(chosen, Path(out), overrides, config))


@cli.command()
@RUN
@OVERRIDES
def resume(run: Path, overrides: tuple[str, ...]) -> None:
    """Continue an interrupted run or comparison.

    The result is the same as without the interruption. Only keys that do not affect the result can be set, such as
    quiet=true or workers=2.
    """
    from grownas.runs.commands import resume as go_on

    go_on(run, overrides)


@cli.command()
@RUN
def status(run: Path) -> None:
    """Say how far a run or comparison is, also while it runs.

    Prints one row per run: its state (done, running, failed, stopped, waiting), the search's lowest validation metric,
    the weight steps so far, and when its folder last changed; for a comparison also about how long it still takes.
    """
    from grownas.runs.status import text

    click.echo(text(run))


@cli.command()
@RUN
@OVERRIDES
def evaluate(run: Path, overrides: tuple[str, ...]) -> None:
    """Score the saved model of a run again, also on other data.

    task.data=NEW names other series, which must include the run's columns, or another text. In other series, rows
    dated up to the end of the run's own data are scored as `seen`, later rows as `new`. since=DATE scores only rows
    after a date; earlier rows serve as context. device, backend and threads set the hardware to compute on. For a text,
    further keys change how it is scored, for example task.cache_size=500 or task.dynamic_rate=0.00003.
    """
    from grownas.runs import reload

    since, overrides = _taken("since", overrides)
    for part, scores in reload.evaluate(run, overrides, since=since).items():
        metric, value = next(iter(scores.items()))
        click.echo(f"{part} {metric} {value!r}")
        keys = ("mae", "r2", "hit_rate", "nll", "bits_per_word")
        details = [f"{key} {scores[key]:.6g}" for key in keys if scores.get(key) is not None]
        kinds = {"count": "forecasts", "tokens": "tokens"}
        counted = [f"{scores[key]} {what}" for key, what in kinds.items() if key in scores]
        dated = [f"{scores['first']} to {scores['last']}"] if "first" in scores else []
        if facts := [*details, *counted, *dated]:
            click.echo(f"  {', '.join(facts)}")


@cli.command()
@RUN
@OVERRIDES
def predict(run: Path, overrides: tuple[str, ...]) -> None:
    """Write forecasts to a CSV file and print the next step.

    task.data=NEW forecasts other data with any number of rows: older rows serve as context, and columns that the model
    does not read are ignored. The file is forecasts.csv in the run folder, or forecasts-NEW.csv for other data;
    out=FILE writes another file. task.units=prices gives prices instead of returns, or levels instead of their changes.

    A model of an amplifier or a predistorter filters a signal instead: input=FILE.csv names a file with the columns I
    and Q. The output is written to FILE-output.csv in the working folder, or to out=FILE.
    """
    from grownas.runs import reload

    signal, overrides = _taken("input", overrides)
    out, overrides = _taken("out", overrides)
    if signal:
        click.echo(reload.write_filtered(run, Path(signal), overrides, out=Path(out) if out else None))
        return
    written = reload.write_forecasts(run, overrides, out=Path(out) if out else None)
    click.echo(written.path)
    click.echo(f"units: {written.units}")
    click.echo(f"next step: {written.date}{f' ({written.frequency})' if written.frequency else ''}")
    for name, value in list(written.ahead.items())[:MOST_SHOWN]:
        click.echo(f"  {name} {value:.6g}")
    if len(written.ahead) > MOST_SHOWN:
        click.echo(f"  and {len(written.ahead) - MOST_SHOWN} more series in the file")


@cli.command()
@RUN
@click.argument("file", type=FILE, metavar="FILE.onnx", shell_complete=_complete)
@OVERRIDES
def export(run: Path, file: Path, overrides: tuple[str, ...]) -> None:
    """Write the saved model of a run as an ONNX file.

    Programs without Python or PyTorch can run the file, which contains the whole model. A model of series reads the
    series' own returns and gives forecasts in the same units. A model of words reads ids, places in the list `names`
    of the file's metadata, and gives logits. A model of signals reads and gives I and Q in their own units. All read
    sequences of any length in batches of any size, from a zero state, and also return the last state.

    form=step writes a model of one time step, which has the state as input and output, and a register of earlier
    samples if it reads them. Prints the file, its inputs and its outputs. Needs the extra onnx: pip install
    'grownas[onnx]'. If the run's own data have moved or changed, task.data=NEW names other data with the same columns.
    """
    from grownas.runs import exporting

    form, overrides = _taken("form", overrides)
    written = exporting.export(run, file, overrides, **({"form": form} if form else {}))
    click.echo(written.path)
    click.echo(f"inputs: {', '.join(written.inputs)}")
    click.echo(f"outputs: {', '.join(written.outputs)}")


def _taken(key: str, overrides: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the value of an argument that is not a config key, and the remaining overrides."""
    values = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}=")]
    if len(values) > 1 or "" in values:
        raise ConfigError(f"{key}= needs one value, got {', '.join(map(repr, values))}")
    return next(iter(values), None), tuple(item for item in overrides if not item.startswith(f"{key}="))


@cli.command()
@RUN
@OVERRIDES
def update(run: Path, overrides: tuple[str, ...]) -> None:
    """Learn from the data that came since a run.

    task.data=NEW names the new data: series with the same columns, either the later rows alone or with the run's own
    rows before them, which must agree; a folder or file of further text; or a new recording of an amplifier. Writes a
    new run folder, which can be evaluated, forecast with and updated again. how= says what is learned:

    \b
      how=state     no weight changes: the model reads the new rows and
                    forecasts from there
      how=continue  a few epochs from the present weights and moments, held
                    near these weights (L2-SP); the default
      how=grow      continue, then try to add nodes or ops, and prune
      how=refit     search and fit anew on all rows

    The last rows are held out: a validation part and then a test part, of update.block rows each. The model learns
    from all earlier rows. A changed model is kept only if strategy.accept prefers it to the old one on the validation
    part; otherwise the old weights stay. The next update learns what is held out now. The scaling stays that of the
    first fit, except after how=refit.

    A new recording takes the place of the old one, because amplifiers drift: its part train is learned, its part val
    judges, its part test is scored. Its sample rate, channels and frames must be those of the old one. Its scaling
    stays that of the first recording, and so does the gain at which a predistorter aims.
    """  # noqa: D301, click reads the backslash
    from grownas.runs import updating

    updating.update(run, overrides)


@cli.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    metavar="RUN [RUN]...",
    shell_complete=_complete,
)
def report(runs: tuple[Path, ...]) -> None:
    """Write report.html for one run, or to compare several."""
    from grownas.report.page import write_report

    click.echo(write_report(runs))


@cli.command()
@click.argument("what", metavar="RUN|GENOTYPE|CONFIG", shell_complete=_complete)
@OVERRIDES
def show(what: str, overrides: tuple[str, ...]) -> None:
    """Print the cell of a run or genotype, or every key of a config.

    GENOTYPE is the path of a genotype.json or a published cell: darts_v1, darts_v2, enas. The command prints the
    cell's nodes, ops, shares and parameters.

    A CONFIG is printed as YAML with its overrides applied and a comment on each key; you can save it as your own
    config.
    """
    from grownas.config.listing import is_config, listing

    if is_config(what):
        from grownas.config.loading import load

        click.echo(listing(load(what, overrides)))
        return
    if overrides:
        raise ConfigError(
            f"{' '.join(overrides)}: key=value needs a config, but {what} is a run or a genotype; leave it out"
        )
    from grownas.runs import reload

    click.echo(reload.show(Path(what)))


@cli.command()
@click.option("--quick", is_flag=True, help="Measure for less than a minute.")
@click.option(
    "--only", default="", metavar="TEXT", help="Measure only the rows whose name contains TEXT, such as 'T20 B32'."
)
@click.option("--json", "json_path", type=FILE, help="Write all timings to this file, with the machine and versions.")
@click.option(
    "--picture", type=FILE, help="Draw each backend's time over that of its matrix products to this .svg or .png."
)
@click.option(
    "--against", type=FILE, help="Compare with a file written by --json; exit with status 1 if a ratio got worse."
)
def bench(quick: bool, only: str, json_path: Path | None, picture: Path | None, against: Path | None) -> None:
    """Time the backends here against nn.LSTM and plain autograd.

    Prints one row per size, and says which of the documented speed ratios this machine reaches.
    """
    from grownas.bench import suite

    if not suite.run(click.echo, quick=quick, only=only, json=json_path, picture=picture, against=against):
        raise click.exceptions.Exit(FAILURE)


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a shell script for completion with the Tab key.

    It completes commands, configs, keys, values and run folders. To enable it, add one line to your shell's startup
    file and open a new shell:

    \b
      bash  eval "$(grownas completion bash)"   in ~/.bashrc
      zsh   eval "$(grownas completion zsh)"    in ~/.zshrc, after compinit
      fish  grownas completion fish | source    in ~/.config/fish/config.fish
    """  # noqa: D301, click reads the backslash
    from grownas.completion import script

    click.echo(script(cli, shell, COMPLETE), nl=False)


def main() -> None:
    """Run the command line and exit: 0 success, 2 wrong input, 130 interrupted, 1 any other failure."""
    if COMPLETE in os.environ:
        from grownas.completion import register

        register()
    warnings.formatwarning = _plain
    sys.exit(_status(cli))


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Format a warning for users: without file name and line number."""
    return f"warning: {message}\n"


def _status(command: Callable[..., Any]) -> int:
    try:
        return int(command(standalone_mode=False) or 0)  # the command's exit status, or None
    except click.Abort as error:  # click turns KeyboardInterrupt into Abort and keeps it as the cause
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
    return _say("interrupted before anything was saved; start the command again", INTERRUPTED)


def _say(text: str, status: int) -> int:
    click.echo(text, err=True)
    return status
