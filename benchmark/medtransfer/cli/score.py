"""`bench score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import read_request, refuse_options, resumable
from medtransfer.core.errors import InputError, plain, unwritable
from medtransfer.transferability.options import Request

if TYPE_CHECKING:
    from medtransfer.ranking import ScoreValidation, Studied
    from medtransfer.specs.score import ScoreRecord
    from medtransfer.transferability.evaluation import Scoring

_LEGEND = (
    "In parentheses: 95 % intervals, bootstrap over {item}s and tasks. Weighted tau: agreement of "
    "the two rankings, in which the top counts most. Regret: metric of the best {item} minus that "
    "of the {item} with the highest score, among those that have the score."
)


@read_request(Request)
def score(
    request: Request,
    *,
    context: typer.Context,
    trajectory: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help="Folder of bench pretrain --checkpoints, to choose one of them. May be repeated.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --trajectory: .svg file of a figure to write.")
    ] = None,
    scores_csv: Annotated[
        Path | None,
        typer.Option("--import", help="Validate these scores: a CSV of encoder,task,score,value."),
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="With --import: a CSV of encoder,task,metric,value.")
    ] = None,
) -> None:
    """Predict transfer without adaptation, and validate the scores against known outcomes."""
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.transferability.evaluation import find_trajectory, prepare
    from medtransfer.transferability.evaluation import score as run

    if scores_csv is not None or outcomes is not None:
        reason = "not with --import, which goes with --outcomes alone"
        refuse_options(context, allowed=("--import", "--outcomes"), reason=reason)
        _validate_csv(scores_csv, outcomes)
        return
    folders = trajectory or []
    if request.encoders and folders:
        raise InputError("--trajectory: not with --encoder; run bench score once for each")
    if figure is not None:
        _check_figure(figure, folders)
    checkpoints = {folder: find_trajectory(folder) for folder in folders}
    if folders:
        paths = [str(path) for folder in folders for path in checkpoints[folder]]
        request = replace(request, encoders=paths)
    with resumable(), ConsoleProgress() as progress:
        scoring = prepare(request, progress, with_sources=bool(folders))
        for note in scoring.notes:
            progress.warn(note)
        records = run(scoring, progress)
    if folders:
        counts = [(folder, len(checkpoints[folder])) for folder in folders]
        _study_trajectories(scoring, counts, figure)
    else:
        _print_scores(records)
        _validate_scores(scoring)


def _check_figure(figure: Path, folders: Sequence[Path]) -> None:
    from medtransfer import ranking

    if not folders or figure.suffix != ".svg":
        raise InputError("--figure: the name of an .svg file, with --trajectory")
    if not ranking.has_charts():
        raise InputError("--figure: needs the extra page: pip install 'medtransfer[page]'")
    if not figure.absolute().parent.is_dir():
        raise InputError(f"--figure: {figure.parent}: no such folder")


def _validate_scores(scoring: Scoring) -> None:
    """Validate the scores of all encoders in the folder that have outcomes on these tasks."""
    from medtransfer import ranking

    out, protocol = scoring.request.out, scoring.protocol
    submissions = {each.card.name: each for each in ranking.load_submissions([out])}
    validation = ranking.validate_submissions(submissions, protocol, tasks=list(scoring.data))
    _print_validation(validation, f": bench evaluate --protocol {protocol.name} --out {out}")


def _validate_csv(scores: Path | None, outcomes: Path | None) -> None:
    from medtransfer import ranking

    if scores is None or outcomes is None:
        raise InputError(
            "--import SCORES.csv --outcomes OUTCOMES.csv: both are needed, with the columns "
            "encoder,task,score,value and encoder,task,metric,value"
        )
    predicted, observed = ranking.read_scores_csv(scores), ranking.read_outcomes(outcomes)
    for name in ("encoder", "task"):
        if not set(predicted[name]) & set(observed[name]):
            raise InputError(f"{scores} and {outcomes}: have no {name} in common")
    _print_validation(ranking.validate_scores(predicted, observed))


def _study_trajectories(
    scoring: Scoring, counts: Sequence[tuple[Path, int]], figure: Path | None
) -> None:
    from medtransfer import ranking

    sources = iter(scoring.encoders)
    trajectories = [
        ranking.Trajectory(folder.resolve().name, [next(sources).card for _ in range(count)])
        for folder, count in counts
    ]
    submissions = {each.card.name: each for each in ranking.load_submissions([scoring.request.out])}
    studied = ranking.study_trajectories(
        trajectories, submissions, protocol=scoring.protocol, tasks=list(scoring.data)
    )
    _print_trajectories(studied, protocol=scoring.protocol.name)
    if figure is not None:
        try:
            figure.write_text(ranking.draw_trajectories(studied), encoding="utf-8")
        except OSError as error:
            raise unwritable(f"--figure: {figure}", error) from None
        print(f"{figure}: scores and outcomes against images seen")


def _print_scores(records: Sequence[ScoreRecord]) -> None:
    """Print a table for each task with encoders by scores, then the reasons for undefined ones."""
    from medtransfer.cli.tables import print_table

    listed = [record for record in records if "[" not in record.score]  # [: of the sweep
    for task in dict.fromkeys(record.task.name for record in records):
        values = {
            (record.encoder.name, record.score): record.value
            for record in listed
            if record.task.name == task
        }
        names = list(dict.fromkeys(name for _, name in values))
        rows = [
            (encoder, *(_number(values.get((encoder, name))) for name in names))
            for encoder in dict.fromkeys(encoder for encoder, _ in values)
        ]
        print_table((task, *names), rows)
    if swept := len(records) - len(listed):
        print(f"and {swept} scores of the sweep, in scores.jsonl")
    reasons: dict[str, list[ScoreRecord]] = {}
    for record in listed:
        if record.undefined:
            reasons.setdefault(f"{record.score} is undefined: {record.undefined}", []).append(
                record
            )
    every = {record.encoder.name for record in records}
    for reason, group in reasons.items():
        encoders = {record.encoder.name for record in group}
        names_of = "all encoders" if encoders == every else ", ".join(sorted(encoders))
        tasks = ", ".join(dict.fromkeys(record.task.name for record in group))
        print(plain(f"{reason} ({names_of}; {tasks})"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _print_validation(validation: ScoreValidation, remedy: str = "") -> None:
    """Print how well scores predicted outcomes, by task and overall."""
    from medtransfer.cli.tables import print_table
    from medtransfer.ranking import tabulate_tasks, tabulate_validation

    if validation.summary.empty:
        print(f"not validated: 3 encoders with scores and outcomes on one task are needed{remedy}")
        return
    head, rows = tabulate_tasks(validation)
    if len(rows) <= 60:
        print_table(head, rows)
    print_table(*tabulate_validation(validation.summary))
    print(_LEGEND.format(item="encoder"))


def _print_trajectories(studied: Studied, *, protocol: str) -> None:
    """Print scores and outcomes along pre-training, the chosen checkpoints, and the validation."""
    from medtransfer import ranking
    from medtransfer.cli.tables import print_table

    for table in ranking.tabulate_points(studied):
        print_table(*table)
    print_table(*ranking.tabulate_picks(studied))
    if studied.validation.summary.empty:
        print(
            "not validated: outcomes of at least 3 checkpoints are needed: "
            f"bench evaluate --protocol {protocol}"
        )
        return
    print_table(*ranking.tabulate_trajectories(studied))
    print(_LEGEND.format(item="checkpoint"))
    outcomes = studied.points[studied.points["kind"] == "outcome"].dropna(subset=["value"])
    validated, every = (points["encoder"].nunique() for points in (outcomes, studied.points))
    if validated < every:
        print(f"The validation covers the {validated} of {every} checkpoints that have outcomes.")
