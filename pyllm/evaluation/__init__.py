"""Measuring models."""

from pyllm.evaluation.perplexity import Perplexity, perplexity

__all__ = ["Perplexity", "perplexity"]
