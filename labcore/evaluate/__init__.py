"""Measures. Each result is a record that says how it was made."""

from labcore.evaluate.bayes import bayes_accuracy, bayes_classify, bayes_scores
from labcore.evaluate.likelihood import LikelihoodRecord, likelihood

__all__ = ["LikelihoodRecord", "bayes_accuracy", "bayes_classify", "bayes_scores", "likelihood"]
