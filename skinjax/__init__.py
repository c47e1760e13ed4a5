"""Dermoscopy models in JAX: lesion outlines and diagnoses, with scores that can be believed."""

__version__ = "0.1.0"
