"""Costs of the package, compared with a plain implementation of the official formulation and with the limits of the machine."""
