"""Probe studies: what can be read off activations, what a dictionary adds, and whether the difference is real."""

from sae.probing.compare import Compared, paired_comparison
from sae.probing.examples import ProbeExamples, ProbeTask, joined, tasks_of
from sae.probing.methods import StudySettings
from sae.probing.quiver import quiver
from sae.probing.sources import TaskSettings, examples_of
from sae.probing.study import ProbeResult, read_results, study, write_results
from sae.probing.summary import summary

__all__ = [
    "Compared",
    "ProbeExamples",
    "ProbeResult",
    "ProbeTask",
    "StudySettings",
    "TaskSettings",
    "examples_of",
    "joined",
    "paired_comparison",
    "quiver",
    "read_results",
    "study",
    "summary",
    "tasks_of",
    "write_results",
]
