"""Import kafka-python past its one deprecation warning, before pytest turns warnings into errors for our own code.

kafka-python 3.0.12 reads its schemas with `importlib.resources.read_text`, which Python 3.11 deprecates and 3.13 has again.
"""

import warnings

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    import kafka

__all__ = ["kafka"]
