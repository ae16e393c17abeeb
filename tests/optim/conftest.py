from tests.ops.conftest import isa, pytest_generate_tests

__all__ = ["isa", "pytest_generate_tests"]
