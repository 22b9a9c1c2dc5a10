"""The space that a corpus is re-embedded into, and the aliases that move meanwhile."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import vlm2vec
from tests.client.reembedding import assert_complete, ready_path, settings, write_corpus
from tests.client.server import Service
from vlm2vec.reembed.run import run
from vlm2vec.v1 import embedding_pb2 as pb


def test_space_switch(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 200), tmp_path / "out"
    service.behaviour.switch_after, service.behaviour.ignores_space = 100, True
    with pytest.raises(vlm2vec.SpaceChanged, match=r"'space-1'.*'space-2'"):
        run(settings(service, source, output))
    assert not ready_path(output).exists()
    assert 0 < pq.read_table(output).num_rows <= 100
    # The alias means another space now.
    with pytest.raises(
        ValueError, match="space 'space-1', which is now 'space-2': give --to space"
    ):
        run(settings(service, source, output))
    service.behaviour.switch_after = None
    run(settings(service, source, output, to="space:space-1"))
    assert_complete(output, 200)
    assert service.calls[-1][0].options.model == pb.ModelRef(space="space-1")


def test_alias_that_moved_is_told(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    # After the rows and the answer that said which space they are to be of.
    service.behaviour.switch_after = 21
    run(settings(service, source, tmp_path / "out"))
    assert "alias:canary is space 'space-2' now; all vectors are of 'space-1'" in (
        capsys.readouterr().err
    )
    assert_complete(tmp_path / "out", 20)


def test_corpus_in_the_target_space_is_refused(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.parquet", 20)
    with pytest.raises(ValueError, match="in space 'space-1' already, which --to alias:canary is"):
        run(settings(service, source, tmp_path / "out", from_space="space-1"))
    for space, problem in (("space-1", "already"), ("space-x", "'space-x', not 'space-0'")):
        table = pq.read_table(source).replace_schema_metadata({"vlm2vec.space": space})
        pq.write_table(table, source)
        with pytest.raises(ValueError, match=problem):
            run(settings(service, source, tmp_path / "out"))
    assert os.listdir(tmp_path) == ["in.parquet"]
    run(settings(service, source, tmp_path / "out", from_space="space-x"))
