"""mars: distributed RLVR training of vision-language models on several images of one scene."""

__version__ = "0.1.0"
