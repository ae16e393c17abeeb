"""Hugging Face transformers: their models on our kernels, one line in and one line out."""

from pyllm.integrations.transformers.patching import patch, unpatch
from pyllm.integrations.transformers.report import PatchReport

__all__ = ["PatchReport", "patch", "unpatch"]
