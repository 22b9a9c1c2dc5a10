"""What is imported for good is not looked through again, and nothing else is left out."""

import gc
from collections.abc import Iterator

import pytest

from vlm2vec_service.allocator import keeping_for_ever


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """Leaves the collector of the process as it was."""
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_what_the_block_makes_is_kept_and_collecting_goes_on_as_before(
    enabled: bool, fails: bool
) -> None:
    (gc.enable if enabled else gc.disable)()
    before = gc.get_freeze_count()
    made: list[object] = []
    try:
        with keeping_for_ever():
            assert not gc.isenabled()
            made.append([])
            if fails:
                raise ImportError("no such package")
    except ImportError:
        assert fails
    assert gc.isenabled() == enabled
    assert gc.get_freeze_count() > before
    assert not any(item is made[0] for item in gc.get_objects())
    later: list[object] = []
    assert any(item is later for item in gc.get_objects())
