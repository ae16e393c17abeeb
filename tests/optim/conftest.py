from tests.ops.conftest import isa

__all__ = ["isa"]
