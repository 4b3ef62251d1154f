"""Measures. Each result is a record that says how it was made.

Some names are both a module here and the function in it (classify, cknna, ...); `labcore.evaluate.classify` is the
function.
"""

from labcore.evaluate.accuracy import Accuracy, accuracy, wilson
from labcore.evaluate.bayes import bayes_accuracy, bayes_classify, bayes_scores
from labcore.evaluate.cknna import cknna, cknna_sites
from labcore.evaluate.classify import class_scores, classify, training_free_accuracy
from labcore.evaluate.hiddens import all_sites, hidden_features
from labcore.evaluate.likelihood import LikelihoodRecord, likelihood
from labcore.evaluate.probe import ProbeConfig, ProbeReport, ProbeResult, SiteProbe, linear_probe, probe_sites

__all__ = [
    "Accuracy",
    "LikelihoodRecord",
    "ProbeConfig",
    "ProbeReport",
    "ProbeResult",
    "SiteProbe",
    "accuracy",
    "all_sites",
    "bayes_accuracy",
    "bayes_classify",
    "bayes_scores",
    "cknna",
    "cknna_sites",
    "class_scores",
    "classify",
    "hidden_features",
    "likelihood",
    "linear_probe",
    "probe_sites",
    "training_free_accuracy",
    "wilson",
]
