"""What the engine costs, against a plain re-statement of the official formulation and against what the machine can do."""
