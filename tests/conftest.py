"""What all tests share."""

from hypothesis import settings

settings.register_profile("tta", deadline=None)  # a busy machine is not a fault of the code
settings.load_profile("tta")
