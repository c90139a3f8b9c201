"""What all tests share."""

import os

from hypothesis import settings

settings.register_profile("tta", deadline=None)  # a busy machine is not a fault of the code
settings.register_profile("ci", settings.get_profile("tta"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "tta")  # every change by the same examples; elsewhere by others
