"""Students and teachers: small modules without input, output or configuration files."""
