import pytest

from shards.builder import Partition
from tools.engines import read_partition

SLURM = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "4",
    "SLURM_ARRAY_TASK_MAX": "11",
    "SLURM_ARRAY_TASK_COUNT": "8",
}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, SLURM, None),
        ("2/5", SLURM, Partition(2, 5)),
        ("auto", SLURM, Partition(3, 8)),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_STEP": "2"}, Partition(2, 8)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "3"}, Partition(3, 4)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "2"}, Partition(1, 2)),
    ],
)
def test_a_partition_comes_from_the_flag_or_the_job_array(
    text: str | None, environment: dict[str, str], expected: Partition | None
) -> None:
    assert read_partition(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("auto", {}, "found no job array"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "give it as --partition auto/N"),
        ("auto/x", SLURM, "give I/N, auto or auto/N"),
        ("auto/2", SLURM, "the partition is 3/2"),
        ("half", {}, "give I/N"),
    ],
)
def test_a_partition_that_cannot_be_told_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_partition(text, environment)
