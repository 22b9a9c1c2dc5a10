"""``vlm2vec demo`` as users run it, with the model that ships."""

import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.server import COMMAND, is_running, wait_until
from vlm2vec import Client, Input
from vlm2vec_demo.sheet import SIZE
from vlm2vec_registry.store import Registry

ENVIRONMENT = {key: value for key, value in os.environ.items() if "VLM2VEC" not in key}
SECONDS = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def command(folder: Path, *flags: str) -> list[str]:
    return [str(COMMAND), "demo", "--folder", str(folder), "--scenes", "8", *flags]


def scores(output: str) -> dict[str, list[float]]:
    """The last table: v1, v2 and chance by meta-task."""
    table = output[output.rindex("hit@1") :]
    assert table.splitlines()[0].split() == ["hit@1", "v1", "v2", "chance"]
    rows = re.findall(r"^  (\w+) +(\d\.\d+) +(\d\.\d+) +(\d\.\d+)$", table, re.MULTILINE)
    return {name: [float(value) for value in values] for name, *values in rows}


def test_a_rollout_is_shown_and_what_is_kept_can_be_used(folder: Path) -> None:
    done = subprocess.run(
        command(folder, "--keep"),
        capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    server = int(re.findall(r"kill (\d+)$", done.stdout, re.MULTILINE)[0])
    try:
        found = scores(done.stdout)
        assert list(found) == ["classification", "vqa", "retrieval", "grounding"]
        for name in ("classification", "retrieval"):
            v1, v2, chance = found[name]
            assert min(v1, v2) > chance + 0.4
        for name in ("vqa", "grounding"):
            v1, v2, chance = found[name]
            assert v2 > max(v1, chance) + 0.2
        assert re.search(r"answers in that stream: \d+ by v1, \d+ by v2; requests failed: 0\n",
                         done.stdout)  # fmt: skip
        with Image.open(folder / "demo.png") as sheet:
            sheet.load()
            assert sheet.size == SIZE
            assert len(sheet.getcolors() or ()) > 50

        aliases = Registry(str(folder / "registry")).snapshot("digits").aliases
        assert aliases == {"champion": "2"}
        (metrics,) = re.findall(r"http://[\d.:]+/metrics", done.stdout)
        with urllib.request.urlopen(metrics, timeout=30) as page:
            text = page.read().decode()
        counted = re.findall(
            r'^vlm2vec_inputs_total{code="(\w+)".*version="(\d)"', text, re.MULTILINE
        )
        assert set(counted) == {("OK", "1"), ("OK", "2")}
        (address,) = re.findall(r"--server (\S+)", done.stdout)
        (caption,) = re.findall(r'--query "([^"]+)"', done.stdout)
        pictures = sorted((folder / "pictures").glob("*.png"))
        with Client(address) as client:
            ranking = client.rank(
                Input(
                    text=caption,
                    instruction="Find me an everyday image that matches the given caption:",
                ),
                pictures,
                candidate_instruction="Represent the given image.",
            )
        assert pictures[ranking.candidates[0].index].stem == caption.replace(" ", "-")
    finally:
        os.kill(server, signal.SIGTERM)
        wait_until(lambda: not is_running(server))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda item: item.name)
def test_a_demo_that_is_stopped_leaves_no_server(folder: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(folder, "--keep"), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "start a server" in line:
                break
        # The server is there before the demo waits for it.
        wait_until(lambda: servers(folder))
        process.send_signal(number)
        assert process.wait(SECONDS) == 1
    assert not servers(folder)


def servers(folder: Path) -> list[int]:
    """Processes that follow the registry in ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(folder / "registry").encode() in words:
            found.append(int(path.parent.name))
    return [pid for pid in found if is_running(pid)]


def test_too_few_scenes_are_refused(folder: Path) -> None:
    done = subprocess.run(
        command(folder, "--scenes", "2"), capture_output=True, text=True, check=False,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "'--scenes': 2 is not in the range 8<=x<=1000" in done.stderr
