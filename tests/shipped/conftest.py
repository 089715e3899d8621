from tests.quick import commands_read_once, quick_composition, quick_yaml

__all__ = ["commands_read_once", "quick_composition", "quick_yaml"]
