"""Memory of one picture is there for the next; what is imported for good is not looked through
again, and nothing else is left out."""

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vlm2vec_service.allocator import keeping_for_ever


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """Leaves the collector of the process as it was."""
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


PICTURES = """
import resource, sys
from vlm2vec_service import allocator
if sys.argv[1] == "kept":
    allocator.unmap_large_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(100):
    three = [bytearray(400_000) for _ in range(3)]
    del three
print(faults() - before)
"""


def faults(memory: str) -> int:
    """How many pages the system found for a hundred times three pictures of 100 pages each."""
    command = [sys.executable, "-c", PICTURES, memory]
    # Its own allocator, not one that a test may run with.
    return int(subprocess.run(command, capture_output=True, check=True, env={}).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
def test_a_picture_gets_the_memory_of_the_one_before() -> None:
    assert 10 * faults("kept") < faults("as the library does")


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
