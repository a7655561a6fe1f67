"""Probe studies: probes on activations, probes on a dictionary's codes, and tests of the difference."""

from sae.probing.compare import PairedComparison, paired_comparison
from sae.probing.examples import ProbeExamples, ProbeTask, joined, tasks_of
from sae.probing.methods import StudySettings
from sae.probing.quiver import quiver
from sae.probing.sources import TaskSettings, examples_of
from sae.probing.study import ProbeResult, read_results, study, write_results
from sae.probing.summary import summary

__all__ = [
    "PairedComparison",
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
