"""The parts of the campaign, with the number of trials that each has by default."""

from __future__ import annotations

from tests.campaign.damage import DAMAGED, damage
from tests.campaign.file_faults import file_fault
from tests.campaign.kills import kill
from tests.campaign.metadata_files import metadata
from tests.campaign.option_strings import options
from tests.campaign.record_files import record
from tests.campaign.scenarios import SCENARIOS
from tests.campaign.task_files import task_file
from tests.campaign.trials import Part

ALL = tuple(SCENARIOS)
PARTS = {
    part.name: part
    for part in (
        Part("kills", 1_000, "SIGKILL at a random time or file operation of a command", kill, ALL),
        Part("file-faults", 1_200, "EIO, ENOSPC, EROFS, EACCES or a kill at one file operation", file_fault, ALL),
        Part("damaged-files", 1_000, "bytes of a file in the cache or the results are changed", damage, DAMAGED),
        Part("option-strings", 10_000, "options of methods, tasks and `run`, right and wrong", options),
        Part("task-files", 3_000, "TOML task files with changed keys, values and bytes", task_file),
        Part("records", 5_000, "changed records beside a sound one on the leaderboard", record, ("run",)),
        Part("metadata", 1_000, "changed tables of images, pipelines' indexes and seals", metadata, ("run",)),
    )
}
