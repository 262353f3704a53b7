"""kctl schema: the fields of a run config, for editors and for people."""


def schema() -> None:
    """Print the JSON schema of a run config (the shipped copy is configs/run.schema.json).

    \b
    Examples:
      kctl schema
      kctl schema > configs/run.schema.json
    """
    from kctl import console
    from kctl.config.json_schema import run_schema

    console.data(run_schema())
