"""Runs a recipe: check it, plan it, fold the stages over the pipeline state, write the run."""
