"""The RULER evaluation: needles, variables, words and questions in long texts.

Hsieh et al. 2024 (arXiv:2404.06654). Tasks and scores are those of the paper, the words our own.
"""

from fotmem.measure.evaluate.ruler.harness import harness_tasks

__all__ = ["harness_tasks"]
