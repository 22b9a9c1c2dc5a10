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


BLOCKS = """
import resource, sys
from vlm2vec_service import allocator
function, size = sys.argv[1], int(sys.argv[2])
if function:
    getattr(allocator, function)()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(100):
    three = [bytearray(size) for _ in range(3)]
    del three
print(faults() - before)
"""


def faults(function: str, size: int) -> int:
    """How many pages the system found for a hundred times three blocks, once ``function`` of the
    allocator was called, if it names one."""
    command = [sys.executable, "-c", BLOCKS, function, str(size)]
    # Its own allocator, not one that a test may run with.
    return int(subprocess.run(command, capture_output=True, check=True, env={}).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
@pytest.mark.parametrize(
    ("function", "size"), [("unmap_large_blocks", 400_000), ("keep_blocks", 3_000_000)]
)
def test_a_picture_or_a_result_gets_the_memory_of_the_one_before(function: str, size: int) -> None:
    assert 10 * faults(function, size) < faults("", size)


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
