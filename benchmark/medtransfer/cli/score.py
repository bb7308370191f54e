"""`bench score`: predict transfer, and say how well the prediction holds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.results import DataOption, TasksOption, given_options

if TYPE_CHECKING:
    from medtransfer.transferability.evaluation import Scoring

__all__ = ["score"]


def score(
    context: typer.Context,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            "-e",
            metavar="<str>",
            help="As bench evaluate takes it; may be repeated: scores are judged over encoders.",
        ),
    ] = None,
    trajectory: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Folder of bench pretrain --checkpoints: which of them to keep. May be repeated.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="<str>", help="Only this task; may be repeated."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Named list of tasks. Default: phantom, or all cards of --tasks."),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="Compute only this, or the .py file of your own; may be repeated. All are judged.",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Robustness at all levels, distances and margins, too."),
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(help="v1, quick or medmnist: input size, fixed values, and whose outcomes."),
    ] = "v1",
    out: Annotated[
        Path, typer.Option(help="Folder of submissions: scores go in, outcomes are read.")
    ] = Path("submissions"),
    figure: Annotated[
        Path | None, typer.Option(help="With --trajectory: draw it, as this .svg file.")
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option("--import", help="Judge these: a CSV of encoder,task,score,value."),
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="With --import: a CSV of encoder,task,metric,value.")
    ] = None,
    data: DataOption = None,
    tasks: TasksOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Predict how encoders transfer, without adapting them; where outcomes are known, judge it."""
    from medtransfer import ranking
    from medtransfer.cli import console
    from medtransfer.cli.console_scoring import ConsoleScoring, print_scores
    from medtransfer.core.errors import InputError
    from medtransfer.transferability.evaluation import Request, find_trajectory, prepare
    from medtransfer.transferability.evaluation import score as run

    if imported is not None or outcomes is not None:
        for name in given_options(context):
            if name not in ("--imported", "--outcomes"):
                raise InputError(f"{name}: not with --import, which goes with --outcomes alone")
        _judge_imported(imported, outcomes)
        return
    if encoder and trajectory:
        raise InputError("--trajectory: not with --encoder, whose scores are judged by themselves")
    if figure is not None and (not trajectory or figure.suffix != ".svg"):
        raise InputError("--figure: the name of an .svg file, with --trajectory")
    if figure is not None and not ranking.has_charts():
        raise InputError("--figure: needs the extra page: pip install 'medtransfer[page]'")
    if figure is not None and not figure.absolute().parent.is_dir():
        raise InputError(f"--figure: {figure.parent}: no such folder")
    found = [find_trajectory(folder) for folder in trajectory or ()]
    request = Request(
        encoders=encoder or [str(path) for folders in found for path in folders],
        suite=suite,
        tasks=tuple(task or ()),
        scores=tuple(score or ()),
        protocol=protocol,
        out=out,
        data=data,
        task_folder=tasks,
        device=device,
        sweep=sweep,
        sources=bool(trajectory),
    )
    try:
        with console.ConsoleData() as progress:
            scoring = prepare(request, progress)
        for note in scoring.notes:
            print(f"note: {note}")
        records = run(scoring, ConsoleScoring())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    if trajectory:
        _study(scoring, trajectory, found, figure)
        return
    print_scores(records)
    _judge(scoring)


def _judge(scoring: Scoring) -> None:
    """Judge the scores of all encoders in the folder that have these tasks' outcomes."""
    from medtransfer import ranking
    from medtransfer.cli.console_scoring import print_judgement

    submissions = {one.card.name: one for one in ranking.load_submissions([scoring.request.out])}
    found = ranking.validate_submissions(submissions, scoring.protocol, tasks=list(scoring.data))
    print_judgement(found, scoring.request.out, protocol=scoring.protocol.name)


def _study(
    scoring: Scoring,
    folders: Sequence[Path],
    checkpoints: Sequence[Sequence[Path]],
    figure: Path | None,
) -> None:
    from medtransfer import ranking
    from medtransfer.cli.console_scoring import print_trajectories
    from medtransfer.core.errors import unwritable

    places = iter(scoring.encoders)
    trajectories = [
        ranking.Trajectory(folder.resolve().name, [next(places).card for _ in own])
        for folder, own in zip(folders, checkpoints, strict=True)
    ]
    submissions = {one.card.name: one for one in ranking.load_submissions([scoring.request.out])}
    studied = ranking.study_trajectories(
        trajectories, submissions, protocol=scoring.protocol, tasks=list(scoring.data)
    )
    print_trajectories(studied, protocol=scoring.protocol.name)
    if figure is not None:
        try:
            figure.write_text(ranking.draw_trajectories(studied), encoding="utf-8")
        except OSError as error:
            raise unwritable(f"--figure: {figure}", error) from None
        print(f"{figure}: score and outcome against images seen")


def _judge_imported(scores: Path | None, outcomes: Path | None) -> None:
    from medtransfer import ranking
    from medtransfer.cli.console_scoring import print_judgement
    from medtransfer.core.errors import InputError

    if scores is None or outcomes is None:
        raise InputError(
            "--import SCORES.csv --outcomes OUTCOMES.csv: both are needed, with the columns "
            "encoder,task,score,value and encoder,task,metric,value"
        )
    said, came = ranking.read_scores_csv(scores), ranking.read_outcomes(outcomes)
    for name in ("encoder", "task"):
        if not set(said[name]) & set(came[name]):
            raise InputError(f"{scores} and {outcomes}: have no {name} in common")
    print_judgement(ranking.validate_scores(said, came), None)
