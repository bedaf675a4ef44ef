"""The examples in the documentation of this package run; see tests/documented.py."""

from documented import _names_of_examples as _names_of_examples
from documented import documented as documented
