"""`noise2music doctor train`: what makes models learn nothing, found before the days are spent.

recipe.py looks at schedules and rates, data.py at what is in the batches, texts.py at captions,
overfit.py trains on one batch for a moment. Every check answers with a figure, and with a remedy
where it is not well: docs/design/doctor.md has the thresholds and why.
"""

from noise2music.train.doctor.examine import examine, report
from noise2music.train.doctor.finding import Finding

__all__ = ["Finding", "examine", "report"]
