"""Memory of pods: by the formula of docs/operations.md, from the settings, unless it is given."""

from typing import Any

import pytest

from tests.chart.rendering import NAME, Document, one, render
from vlm2vec_service.preprocess.prepared import PIXEL_BYTES
from vlm2vec_service.settings import Limits, ServerSettings

MIB = 1 << 20
SERVER, LIMITS = ServerSettings(), Limits()


def resources(documents: list[Document], name: str = NAME) -> Document:
    """Requests and limits of the only container of a pod."""
    (container,) = one(documents, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(container["resources"])


def batches(token_budget: int, max_tokens: int = LIMITS.max_tokens) -> int:
    return 2 * 3 * PIXEL_BYTES * max(token_budget, max_tokens) // MIB


def front_end(workers: int, batch: int, **settings: int) -> tuple[int, int]:
    """Requested and most MiB of a front end with so many workers."""
    values = vars(SERVER) | vars(LIMITS) | settings
    held = (values["max_received_bytes"] + values["max_prepared_bytes"]) // MIB
    decoding = 20 * (values["preprocess_threads"] + 2) * values["max_image_pixels"] // MIB
    return 512 + held // 2, 512 + held + decoding + workers * batch


@pytest.mark.parametrize(
    ("values", "workers", "token_budget", "settings"),
    [
        ({}, 1, 16384, {}),
        ({"device": "cpu"}, 1, 2048, {}),
        ({"gpu": {"count": 4}, "memory": {"workerGiB": 3}}, 4, 16384, {}),
        (
            {
                "models": [{"name": name, "folder": name} for name in "ab"],
                "gpu": {"count": 2},
                "settings": {
                    "max-received-bytes": 3_221_225_472, "max-prepared-bytes": 536_870_912,
                    "max-image-pixels": 20_000_000, "preprocess-threads": 9,
                    "token-budget": 100_000,
                },
            },
            4,
            100_000,
            {
                "max_received_bytes": 3_221_225_472, "max_prepared_bytes": 536_870_912,
                "max_image_pixels": 20_000_000, "preprocess_threads": 9,
            },
        ),
    ],
)  # fmt: skip
def test_a_pod_has_room_for_all_that_it_may_hold(
    values: dict[str, Any], workers: int, token_budget: int, settings: dict[str, int]
) -> None:
    found = resources(render(values))
    batch = batches(token_budget)
    requested, most = front_end(workers, batch, **settings)
    own = 1024 * values.get("memory", {"workerGiB": 8})["workerGiB"]
    assert found["requests"]["memory"] == f"{requested + workers * own}Mi"
    assert found["limits"]["memory"] == f"{most + workers * (own + batch)}Mi"
    assert found["requests"]["cpu"] == "4"


def test_front_ends_and_workers_that_are_split_have_each_their_own() -> None:
    documents = render(
        {"split": {"enabled": True}, "replicas": 3, "settings": {"max-tokens": 20_000}}
    )
    batch = batches(16384, 20_000)
    requested, most = front_end(3, batch)
    found = resources(documents)
    assert (found["requests"]["cpu"], found["requests"]["memory"]) == ("2", f"{requested}Mi")
    assert found["limits"] == {"memory": f"{most}Mi"}
    worker = resources(documents, f"{NAME}-worker-v2")
    assert worker["requests"]["memory"] == "8192Mi"
    assert worker["limits"]["memory"] == f"{8192 + batch}Mi"


def test_what_is_given_is_taken() -> None:
    given = {
        "requests": {"cpu": "1", "memory": "3Gi", "ephemeral-storage": "9Gi"},
        "limits": {"memory": "5Gi"},
    }
    assert resources(render({"resources": given, "device": "cpu"})) == given
    split = {"enabled": True, "resources": {"limits": {"memory": "7Gi"}}}
    found = resources(render({"split": split}))
    assert found["limits"] == {"memory": "7Gi"}
    assert found["requests"]["memory"] == f"{front_end(2, 0)[0]}Mi"
