"""The command ``vlm2vec evaluate``, which scores a model on a suite of data sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vlm2vec_cli.parse import FOLDER, preprocess_threads_option, progress_option, registry_option
from vlm2vec_evaluation.suite import MODALITIES
from vlm2vec_registry import hub
from vlm2vec_service.folders import here, source
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

CACHE = Path("~/.cache/vlm2vec/evaluation")


@click.command(cls=GroupedCommand)
@click.option(
    "--suite", required=True,
    help="A suite file, or one that comes with this: mmeb_v1, mmeb_v2, mmeb_v3, omniset.",
)  # fmt: skip
@click.option(
    "--data",
    type=FOLDER,
    show_default="the suite file's folder",
    help="Folder in which the suite's paths start.",
)
@click.option("--target", default="localhost:50051", help="HOST:PORT of the service that embeds.")
@click.option(
    "--model",
    default="",
    metavar="NAME[@ALIAS_OR_VERSION]",
    help="What to evaluate. NAME is needed where several are served, the rest is champion if not "
    "given.",
)
@click.option("--api-key", help="Sent to the service as a bearer token.")
@click.option("--tls", is_flag=True, help="Encrypt, and trust the system's authorities.")
@click.option(
    "--tls-ca",
    type=click.Path(exists=True, dir_okay=False),
    help="PEM file of authorities to trust; implies --tls.",
)
@click.option(
    "--window", default=256, type=click.IntRange(1), help="Inputs under way in the service."
)
@click.option("--local", is_flag=True, help="Embed in this process: --base instead of --target.")
@click.option("--base", type=source, metavar="DIR", help="With --local: a checkpoint.")
@click.option("--adapter", type=source, metavar="DIR", help="With --local: an adapter, or none.")
@preprocess_threads_option
@click.option(
    "--only", multiple=True, metavar="DATA_SET", help="Evaluate this data set only. Repeatable."
)
@click.option(
    "--modality",
    multiple=True,
    type=click.Choice(MODALITIES),
    help="Evaluate the data sets of this modality only. Repeatable.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Embed nothing: look through the files, and say what is missing and what fetches it.",
)
@click.option("--limit", type=click.IntRange(1), help="Take the first so many queries of each.")
@click.option(
    "--cache",
    default=CACHE,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of vectors, a file for each space: what is there is not embedded again.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the scores as JSON."
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write report.html, and score.json and predictions as MMEB's leaderboard takes them.",
)
@click.option(
    "--beside",
    default="",
    metavar="MODEL,...",
    help="Show the published scores of models beside, such as VLM2Vec-V2.0,Qwen3-VL-Embedding-2B.",
)
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="In the report, say which differences from what --output wrote are more than chance.",
)
@click.option(
    "--record", is_flag=True, help="Write the scores to the version in --registry, for the gate."
)
@registry_option
@progress_option
@options(EngineSettings)
@options(Limits)
@options(VideoSettings)  # fmt: skip
def evaluate(**values: Any) -> None:
    """Score a model on a suite of data sets, by MMEB's protocol.

    For each query its candidates are ranked by cosine; the scores are hit@1, hit@5, hit@10, MRR and
    nDCG@5, by data set, and their averages by meta-task, modality and split, and overall. The table
    goes to standard output.

    Vectors are kept in --cache as they come: an evaluation that was stopped goes on where it was,
    and another one of the same space asks only for what is new.

    --preprocess-threads and the options from --device on are those of the engine, for --local.

    Exit status: 0 when all was scored, 2 when not.

    \b
    Examples:
      vlm2vec evaluate --target localhost:50051 --model v2@canary --suite suite.yaml \\
                       --record --registry http://mlflow:5000
      vlm2vec evaluate --local --base Qwen/Qwen2-VL-2B-Instruct --device cuda \\
                       --adapter VLM2Vec/VLM2Vec-V2.0 \\
                       --suite mmeb_v1 --data MMEB-eval --output scores.json
    """
    _check_usage(values)
    for name, files in (("base", hub.BASE), ("adapter", hub.ADAPTER)):
        values[name] = values[name] and here(values[name], files)
    # grpc, and torch with --local, take seconds to import; --help should not.
    from vlm2vec_evaluation.run import EvaluateArguments, run

    values["engine"] = take(EngineSettings, values)
    values["limits"] = take(Limits, values)
    values["video"] = take(VideoSettings, values)
    values["cache"] = values["cache"].expanduser()
    run(EvaluateArguments(**values))


def _check_usage(values: Mapping[str, Any]) -> None:
    """Raises `click.UsageError` for options that do not go together."""
    if values["local"] and not values["base"]:
        raise click.UsageError("--local needs --base")
    if not values["local"] and (values["base"] or values["adapter"]):
        raise click.UsageError(
            "--base and --adapter are for --local; a service is given by --target"
        )
    if values["record"] and (values["only"] or values["modality"] or values["limit"]):
        raise click.UsageError(
            "--record is for whole evaluations: leave out --only, --modality and --limit"
        )
    if values["compare"] and not values["report"]:
        raise click.UsageError("--compare is for --report DIR")
    if values["record"] and values["local"] and "@" not in values["model"]:
        raise click.UsageError("--record with --local needs --model NAME@VERSION to write to")
