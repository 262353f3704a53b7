"""From a config to the manifests of its run: values, templates, preflight."""
